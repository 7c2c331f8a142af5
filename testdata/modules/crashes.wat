;; A module that traps on a request with header x-crash, holds one with x-waits for good, and lets every other pass.
(module
  (import "env" "proxy_get_header_map_value" (func $get (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 16) "x-crash")
  (data (i32.const 32) "x-waits")
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "_initialize"))
  (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 4096))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 1))
  ;; Whether the request has the header, of seven letters, whose name is at that address.
  (func $has (param i32) (result i32)
    ;; The value's address goes to 0, its length to 4; a header that is missing has none.
    (i32.store (i32.const 4) (i32.const 0))
    (drop (call $get (i32.const 0) (local.get 0) (i32.const 7) (i32.const 0) (i32.const 4)))
    (i32.ne (i32.load (i32.const 4)) (i32.const 0)))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (if (call $has (i32.const 16)) (then (unreachable)))
    (call $has (i32.const 32)))
)
