;; A module that traps on a request with header x-crash, and lets every other pass.
(module
  (import "env" "proxy_get_header_map_value" (func $get (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 16) "x-crash")
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "_initialize"))
  (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 4096))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    ;; The value goes by the address at 0, its length by that at 4; a header that is missing has none.
    (drop (call $get (i32.const 0) (i32.const 16) (i32.const 7) (i32.const 0) (i32.const 4)))
    (if (i32.load (i32.const 4)) (then (unreachable)))
    (i32.const 0)))
