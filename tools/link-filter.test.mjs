// Tests of the post-link step on small modules, and of the exports and imports of each module in target/filters.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { check, declaredCallbacks, link, LinkError, optimiser } from "./link-filter.mjs";

const binaryen = await optimiser();

/** A module as rustc leaves it: the ABI's exports, callbacks of the SDK and the kit's. */
function rustcOutput({ imports = "", extra = "" } = {}) {
  const module = binaryen.parseText(`(module
    ${imports}
    (memory (export "memory") 1)
    (func (export "_initialize"))
    (func (export "proxy_abi_version_0_2_1"))
    (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 8))
    (func (export "proxy_on_delete") (param i32))
    (func (export "proxy_on_tick") (param i32))
    (func (export "kit_on_delete") (param i32))
    (func (export "kit_on_tick") (param i32) (i32.store (i32.const 8) (local.get 0)))
    (func (export "kit_on_log") (param i64))
    ${extra})`);
  try {
    return module.emitBinary();
  } finally {
    module.dispose();
  }
}

const exportsOf = (bytes) => WebAssembly.Module.exports(new WebAssembly.Module(bytes)).map(({ name }) => name).sort();

test("only the declared callbacks are exported, and they are the kit's", async () => {
  const bytes = await link(rustcOutput(), ["tick"]);
  assert.deepEqual(exportsOf(bytes), ["_initialize", "memory", "proxy_abi_version_0_2_1", "proxy_on_memory_allocate", "proxy_on_tick"]);
  const { exports } = (await WebAssembly.instantiate(bytes)).instance;
  exports.proxy_on_tick(7);
  assert.equal(new Uint8Array(exports.memory.buffer)[8], 7);
});

test("a callback that the kit does not have is refused", async () => {
  await assert.rejects(link(rustcOutput(), ["teapot"]), new LinkError('callback "teapot" is declared, but the kit exports no kit_on_teapot; it has: delete, tick, log'));
});

test("a callback with another type than the ABI's is refused", async () => {
  await assert.rejects(link(rustcOutput(), ["log"]), new LinkError("kit_on_log is (i64) -> nothing, but the ABI expects (i32) -> nothing"));
});

test("an import that the proxy does not give is refused", async () => {
  const imports = '(import "wasi_snapshot_preview1" "sock_accept" (func $accept (param i32)))';
  const extra = '(func (export "kit_on_configure") (param i32 i32) (result i32) (call $accept (local.get 0)) (i32.const 1))' +
    '(func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 1))';
  await assert.rejects(link(rustcOutput({ imports, extra }), ["configure"]),
    new LinkError("the module imports functions that the proxy does not have: wasi_snapshot_preview1.sock_accept"));
  assert.deepEqual(exportsOf(await link(rustcOutput({ imports, extra }), ["tick"])).includes("proxy_on_configure"), false);
});

test("a module without the ABI's exports is refused", async () => {
  const bytes = binaryen.parseText('(module (memory (export "memory") 1))').emitBinary();
  await assert.rejects(link(bytes, []), LinkError);
});

test("names, producers and paths of the building machine are stripped", () => {
  assert.notEqual(declaredCallbacks().size, 0);
  for (const crate of declaredCallbacks().keys()) {
    const bytes = readFileSync(new URL(`../target/filters/${crate}.wasm`, import.meta.url));
    for (const section of ["name", "producers", "target_features", ".debug_info"]) {
      assert.deepEqual(WebAssembly.Module.customSections(new WebAssembly.Module(bytes), section), [], `${crate}: ${section}`);
    }
    assert.doesNotMatch(bytes.toString("latin1"), /\/(home|root|Users)\/|\.cargo\/registry/, crate);
  }
});

/** The sizes of a module's functions in bytes, the largest first: of the code section's entries, each with its size before it. */
function functionSizes(bytes) {
  let at = 8;
  const number = () => {
    for (let value = 0, shift = 0; ; shift += 7) {
      const byte = bytes[at++];
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < bytes.length) {
    const code = bytes[at++] === 10;
    const end = number() + at;
    if (code) {
      const sizes = [];
      for (let left = number(); left > 0; left--) {
        const size = number();
        sizes.push(size);
        at += size;
      }
      return sizes.sort((a, b) => b - a);
    }
    at = end;
  }
  return [];
}

test("no function is so large that the proxy's compiler takes much memory for it", () => {
  // Ed25519's multiplication of points is one piece of straight code, which takes the least memory for its size.
  const straight = { "jwt-auth": 1, "mesh-filters": 1 };
  for (const crate of declaredCallbacks().keys()) {
    const sizes = functionSizes(readFileSync(new URL(`../target/filters/${crate}.wasm`, import.meta.url)));
    assert.ok(sizes[0] <= 16 * 1024, `${crate}: ${sizes[0]} bytes`);
    const others = sizes.slice(straight[crate] ?? 0);
    assert.ok(others[0] <= 8 * 1024, `${crate}: ${others[0]} bytes; \`inlining\` in build-filters and #[inline(never)] keep functions apart`);
  }
});

for (const [crate, callbacks] of declaredCallbacks()) {
  test(`${crate}.wasm exports exactly its callbacks and imports what the proxy gives`, () => {
    check(readFileSync(new URL(`../target/filters/${crate}.wasm`, import.meta.url)), callbacks);
  });
}
