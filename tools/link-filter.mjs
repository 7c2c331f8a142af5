// Turns the output of rustc into the module that a proxy loads. Usage: node tools/link-filter.mjs CRATE...
//
// A proxy enters the module for every callback that the module exports, needed or not, so each filter exports only those that
// its Cargo.toml declares under [package.metadata.proxy-wasm] callbacks. The kit's `kit_on_X` becomes `proxy_on_X`. What is
// left is optimised and stripped.
//
// Reads target/wasm32-wasip1/release/CRATE.wasm, writes target/filters/CRATE.wasm.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** What every module exports besides its callbacks. */
const BASE_EXPORTS = ["memory", "_initialize", "proxy_abi_version_0_2_1", "proxy_on_memory_allocate"];

/** The callbacks of ABI 0.2.1 that a filter may declare, with their types. */
const CALLBACKS = {
  context_create: "(i32, i32) -> nothing",
  vm_start: "(i32, i32) -> i32",
  configure: "(i32, i32) -> i32",
  request_headers: "(i32, i32, i32) -> i32",
  response_headers: "(i32, i32, i32) -> i32",
  log: "(i32) -> nothing",
  tick: "(i32) -> nothing",
  http_call_response: "(i32, i32, i32, i32, i32) -> nothing",
  grpc_receive: "(i32, i32, i32) -> nothing",
  grpc_close: "(i32, i32, i32) -> nothing",
};

/** The functions that Envoy gives to a module of ABI 0.2.1 (proxy-wasm-cpp-host, exports.h). */
const HOST_FUNCTIONS = {
  env: `log get_log_level get_status set_property get_property send_local_response get_shared_data set_shared_data
    register_shared_queue resolve_shared_queue dequeue_shared_queue enqueue_shared_queue get_header_map_value
    add_header_map_value replace_header_map_value remove_header_map_value get_header_map_pairs set_header_map_pairs
    get_header_map_size get_buffer_status get_buffer_bytes set_buffer_bytes http_call grpc_call grpc_stream grpc_close
    grpc_cancel grpc_send set_tick_period_milliseconds get_current_time_nanoseconds define_metric increment_metric
    record_metric get_metric set_effective_context done call_foreign_function continue_stream close_stream`
    .split(/\s+/).map((name) => `proxy_${name}`),
  // Those that do something; the rest of WASI only answers with an error there.
  wasi_snapshot_preview1: `fd_write fd_read fd_seek fd_close fd_fdstat_get environ_get environ_sizes_get args_get
    args_sizes_get clock_time_get random_get proc_exit path_open fd_prestat_get fd_prestat_dir_name`.split(/\s+/),
};

/** What rustc assumes of a wasm32-wasip1 engine, and Envoy's V8 has. */
const FEATURES = ["MutableGlobals", "NontrappingFPToInt", "BulkMemory", "BulkMemoryOpt", "SignExt", "SIMD128", "ReferenceTypes",
  "Multivalue", "ExtendedConst", "CallIndirectOverlong"];

/** The optimiser. It takes a second to load, so only when there is something to link. */
export const optimiser = async () => (await import(new URL("../.tools/npm/node_modules/binaryen/index.js", import.meta.url))).default;

/**
 * The largest function, in binaryen's expressions, that is put into the one place that calls it. The proxy's compiler takes memory for a whole
 * function at a time and keeps it: modules with functions of 100 KB cost a proxy 28 MB more.
 */
const LARGEST_INLINED = 300;

export class LinkError extends Error {}

/** Links one module: bytes of rustc's output and callback names ("request_headers") to bytes of the module. */
export async function link(input, callbacks) {
  const binaryen = await optimiser();
  const module = binaryen.readBinary(input);
  try {
    module.setFeatures(FEATURES.reduce((all, name) => all | binaryen.Features[name], 0));
    exportOnly(binaryen, module, callbacks);
    binaryen.setOptimizeLevel(3);
    binaryen.setShrinkLevel(0);
    binaryen.setOneCallerInlineMaxSize(LARGEST_INLINED);
    binaryen.setDebugInfo(false);
    module.optimize();
    module.runPasses(["strip-debug", "strip-producers", "strip-target-features"]);
    if (!module.validate()) throw new LinkError("the optimised module is not valid");
    const output = module.emitBinary();
    check(output, callbacks);
    return output;
  } finally {
    module.dispose();
  }
}

function exportOnly(binaryen, module, callbacks) {
  const exported = new Map();
  for (let i = 0; i < module.getNumExports(); i++) {
    const { name, value } = binaryen.getExportInfo(module.getExportByIndex(i));
    exported.set(name, value);
  }
  const offered = [...exported.keys()].filter((name) => name.startsWith("kit_on_")).map((name) => name.slice(7));
  for (const callback of callbacks) {
    if (!offered.includes(callback)) {
      throw new LinkError(`callback "${callback}" is declared, but the kit exports no kit_on_${callback}; it has: ${offered.join(", ")}`);
    }
    const ours = signature(binaryen, module, exported.get(`kit_on_${callback}`));
    if (ours !== CALLBACKS[callback]) throw new LinkError(`kit_on_${callback} is ${ours}, but the ABI expects ${CALLBACKS[callback]}`);
  }
  for (const name of exported.keys()) {
    if (!BASE_EXPORTS.includes(name)) module.removeExport(name);
  }
  for (const callback of callbacks) {
    module.addFunctionExport(exported.get(`kit_on_${callback}`), `proxy_on_${callback}`);
  }
}

/** The type of a function, "(i32, i32) -> i32". */
function signature(binaryen, module, name) {
  const text = (type) => binaryen.expandType(type).map((t) => ({ [binaryen.i32]: "i32", [binaryen.i64]: "i64" })[t] ?? t).join(", ");
  const { params, results } = binaryen.getFunctionInfo(module.getFunction(name));
  return `(${text(params)}) -> ${text(results) || "nothing"}`;
}

/** Refuses a module that exports anything but its callbacks, or that a proxy could not load. */
export function check(bytes, callbacks) {
  const module = new WebAssembly.Module(bytes);
  const exports = WebAssembly.Module.exports(module).map(({ name }) => name).sort();
  const expected = [...BASE_EXPORTS, ...callbacks.map((name) => `proxy_on_${name}`)].sort();
  if (exports.join() !== expected.join()) {
    throw new LinkError(`the module exports ${exports.join(", ")}; expected ${expected.join(", ")}`);
  }
  const foreign = WebAssembly.Module.imports(module).filter(({ module, name }) => !HOST_FUNCTIONS[module]?.includes(name));
  if (foreign.length > 0) {
    throw new LinkError(`the module imports functions that the proxy does not have: ${foreign.map(({ module, name }) => `${module}.${name}`).join(", ")}`);
  }
}

/** The callbacks that each crate of the workspace declares. */
export function declaredCallbacks() {
  const json = execFileSync("cargo", ["metadata", "--no-deps", "--offline", "--format-version", "1"], { cwd: ROOT, maxBuffer: 1 << 26 });
  const { packages } = JSON.parse(json);
  return new Map(packages.flatMap(({ name, metadata }) => {
    const callbacks = metadata?.["proxy-wasm"]?.callbacks;
    return callbacks === undefined ? [] : [[name, callbacks]];
  }));
}

async function main(crates) {
  const declared = declaredCallbacks();
  mkdirSync(`${ROOT}target/filters`, { recursive: true });
  for (const crate of crates) {
    const callbacks = declared.get(crate);
    if (callbacks === undefined) throw new LinkError(`${crate}: its Cargo.toml has no [package.metadata.proxy-wasm] callbacks`);
    const input = readFileSync(`${ROOT}target/wasm32-wasip1/release/${crate.replaceAll("-", "_")}.wasm`);
    const output = `${ROOT}target/filters/${crate}.wasm`;
    // Optimising takes seconds: skip it when all that decides the output is as it was.
    const made = createHash("sha256").update(input).update(JSON.stringify(callbacks))
      .update(readFileSync(fileURLToPath(import.meta.url))).update(readFileSync(`${ROOT}tools/package-lock.json`)).digest("hex");
    const stamp = `${output}.made-from`;
    if (!existsSync(output) || !existsSync(stamp) || readFileSync(stamp, "utf8") !== made) {
      try {
        writeFileSync(output, await link(input, callbacks));
      } catch (error) {
        if (error instanceof LinkError) error.message = `${crate}: ${error.message}`;
        throw error;
      }
      writeFileSync(stamp, made);
    }
    const bytes = readFileSync(output);
    const sha256 = createHash("sha256").update(bytes).digest("hex");
    console.log(`${crate}.wasm  ${Math.ceil(bytes.length / 1024)} KiB  sha256 ${sha256.slice(0, 16)}`);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    await main(process.argv.slice(2));
  } catch (error) {
    if (!(error instanceof LinkError)) throw error;
    console.error(`link-filter: ${error.message}`);
    process.exitCode = 1;
  }
}
