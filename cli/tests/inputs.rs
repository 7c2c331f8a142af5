//! What the command line reads, and what it does not show.
#![allow(clippy::restriction, clippy::format_push_string)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.HUNTER2-signature";

/// A folder of this test's own.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn run(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_mesh-filters"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
#[cfg(unix)]
fn what_cannot_be_read_does_not_hide_the_rest_and_each_file_is_read_once() {
    let folder = folder("unread");
    let wrong = "limits: [{ name: a, rate: { requests: 1, per: 1 } }]\n";
    fs::create_dir(folder.join("all")).unwrap();
    fs::write(folder.join("all/z.yaml"), wrong).unwrap();
    fs::write(folder.join("all/a.yaml"), b"\xff\xfe\x00").unwrap();
    fs::write(folder.join("all/note.txt"), b"\xff").unwrap();
    for (to, name) in [
        ("z.yaml", "link.yaml"),
        ("z.yaml", "other.yml"),
        (".", "loop"),
        ("..", "up"),
        ("nowhere", "gone.yaml"),
        ("nowhere", "gone"),
        ("/dev/zero", "zero.yaml"),
    ] {
        std::os::unix::fs::symlink(to, folder.join("all").join(name)).unwrap();
    }
    let made = Command::new("mkfifo").arg(folder.join("all/pipe.yaml")).status().unwrap();
    assert!(made.success());
    for format in ["json", "text"] {
        let (code, out, err) = run(&folder, &["check", "--format", format, "all", "all/z.yaml"]);
        assert_eq!(code, Some(2), "{out}{err}");
        assert_eq!(out.matches("limits[0].rate.per: ").count(), 1, "{out}");
        let unread: Vec<&str> = err.lines().map(|line| line.split(": ").nth(1).unwrap()).collect();
        assert_eq!(unread, ["all/a.yaml", "all/gone.yaml", "all/pipe.yaml", "all/zero.yaml"], "{err}");
    }
    let (code, out, err) = run(&folder, &["check", "/dev/zero"]);
    assert_eq!(code, Some(2), "{out}");
    assert!(err.contains("/dev/zero: is larger than 256 MiB"), "{err}");
    let (code, _, err) = run(&folder, &["hash", "all"]);
    assert!(code == Some(2) && err.contains("all/a.yaml"), "{err}");
}

#[test]
fn keys_are_for_a_provider_and_are_keys() {
    let folder = folder("keys");
    fs::write(
        folder.join("c.yaml"),
        "providers: { shop: { issuer: https://a.example/, jwksUri: http://a.b.svc.cluster.local/k } }\n",
    )
    .unwrap();
    fs::write(folder.join("keys.json"), "{\"keys\":[]}").unwrap();
    let explain = |option: &str, value: &str| run(&folder, &["explain", "-c", "c.yaml", "/x", option, value]);
    for (option, value, expected) in [
        ("--keys", "nope=keys.json", "--keys: no provider is named `nope`; expected one of `shop`"),
        ("--revoked", "nope=keys.json", "--revoked: no provider is named `nope`; expected one of `shop`"),
        ("--introspection", "nope=keys.json", "--introspection: no provider is named `nope`"),
        (
            "--introspection",
            "shop=keys.json",
            "--introspection: not an answer of introspection: expected a JSON object",
        ),
        ("--keys", "shop=c.yaml", "--keys: the file of `shop` is not a key set; expected a JWK set"),
        ("--keys", "c.yaml", "--keys: the file is not a key set; expected a JWK set"),
    ] {
        let (code, out, err) = explain(option, value);
        assert!(code == Some(2) && err.contains(expected), "{value}: {out}{err}");
    }
    let (code, _, err) = explain("--keys", "shop=keys.json");
    assert_eq!((code, err.as_str()), (Some(0), ""));
}

#[test]
fn secrets_are_not_shown() {
    let folder = folder("secrets");
    fs::write(
        folder.join("auth.yaml"),
        format!(
            "providers:\n  q: {{ issuer: https://b.example/, jwksUri: 'https://user:HUNTER2@idp.example/keys', clientSecret: HUNTER2 }}\n  \
             r: {{ issuer: https://b.example/, jwksUri: 'https://{TOKEN}@idp.example/', password: 'HUNTER2', token: HUNTER2, api_key: HUNTER2 }}\n\
             denyResponse: {{ addHeaders: {{ x-api-key: HUNTER2, X-Sig: 'HUNTER2', x: 'a {TOKEN}' }} }}\n"
        ),
    )
    .unwrap();
    fs::write(folder.join("broken.yaml"), "a: {\n  clientSecret: HUNTER2 ]\n").unwrap();
    for format in ["text", "json", "sarif", "github"] {
        let (code, out, err) = run(&folder, &["check", "--format", format, "auth.yaml", "broken.yaml"]);
        assert_eq!(code, Some(1), "{err}");
        assert!(!out.contains("HUNTER2"), "{out}");
        assert!(out.contains("clientSecret") && out.contains("broken.yaml"), "{out}");
    }
    let names = [
        "api_key",
        "token",
        "sig",
        "signature",
        "code",
        "access_token",
        "id_token",
        "client_secret",
        "password",
    ];
    let mut tags = String::from(
        "  - { name: iap, from: [{ header: x-goog-iap-jwt-assertion, trust: true }], raw: true }\n",
    );
    let mut keys =
        String::from("  - { name: h, key: [{ header: x-sig }], rate: { requests: 9, per: 1h } }\n");
    for name in names {
        tags.push_str(&format!(
            "  - {{ name: q{name}, from: [{{ queryParam: {name}, trust: true }}], raw: true }}\n"
        ));
        tags.push_str(&format!(
            "  - {{ name: b{name}, from: [{{ baggage: {name}, trust: true }}], raw: true }}\n"
        ));
        keys.push_str(&format!(
            "  - {{ name: q{name}, key: [{{ queryParam: {name} }}], rate: {{ requests: 9, per: 1h }} }}\n"
        ));
    }
    fs::write(folder.join("tags.yaml"), format!("tags:\n{tags}")).unwrap();
    fs::write(folder.join("limits.yaml"), format!("limits:\n{keys}")).unwrap();
    let query: Vec<String> = names.iter().map(|name| format!("{name}=HUNTER2")).collect();
    let (query, baggage) = (query.join("&"), format!("baggage: {}", query.join(",")));
    let url = format!("https://user:HUNTER2@shop.example/a/{TOKEN}?{query}");
    let line =
        format!("{{\"method\":\"GET\",\"path\":\"/a/{TOKEN}?{query}\",\"authority\":\"shop.example\"}}");
    for config in ["tags.yaml", "limits.yaml"] {
        for format in ["text", "json"] {
            for request in [vec![url.as_str()], vec!["--log-line", &line]] {
                let headers =
                    ["-H", &baggage, "-H", "x-sig: HUNTER2", "-H", "x-goog-iap-jwt-assertion: HUNTER2"];
                let options =
                    [&["explain", "-c", config, "--format", format], &headers[..], &request].concat();
                let (code, out, err) = run(&folder, &options);
                assert_eq!(code, Some(0), "{err}");
                assert!(!out.contains("HUNTER2"), "{out}");
                assert!(
                    out.contains("shop.example/a/eyJ") && out.contains("a value that is not shown"),
                    "{out}"
                );
                assert!(!out.contains("user"), "{out}");
            }
        }
    }
}

/// What `explain` decides about a request to the workloads of `testdata/explain/ports.yaml`.
fn explained(arguments: &[&str]) -> serde_json::Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let options = ["explain", "-c", "testdata/explain/ports.yaml", "--format", "json"];
    let (code, out, err) = run(&root, &[&options[..], arguments].concat());
    if code == Some(0) { serde_json::from_str(&out).unwrap() } else { err.trim().into() }
}

#[test]
fn flags_are_those_of_curl() {
    const WEB: [&str; 4] = ["--namespace", "shop", "--label", "app=web"];
    let cases: &[(&[&str], &str, &str)] = &[
        (&["/x", "-I", "-u", "user:HUNTER2"], "HEAD service/x", "200"),
        (&["http://user:HUNTER2@web.shop/x", "-I"], "HEAD web.shop/x", "200"),
        (&["http://user%3AHUNTER2@web.shop/x", "-I"], "HEAD web.shop/x", "200"),
        (&["/admin", "-u", "admin"], "GET service/admin", "200"),
        (&["web.shop:8080/x", "-I", "-u", "user:HUNTER3"], "HEAD web.shop:8080/x", "401 token_missing"),
        (
            &["web.shop", "-I", "-u", "user:HUNTER2", "-H", "Authorization:"],
            "HEAD web.shop/",
            "401 token_missing",
        ),
        (&["web.shop/find", "-G", "-d", "q=a%20b"], "GET web.shop/find?…", "200"),
        (&["web.shop/find?a=b", "-G", "-d", "q=a%20b", "-d", "c=d"], "GET web.shop/find?…", "200"),
        (&["web.shop/find", "-G", "-d", "q=c"], "GET web.shop/find?…", "403 condition_forbidden"),
        (&["/x", "-d", "a=b"], "POST service/x", "200"),
        (&["/x", "-d", "a=b", "-H", "content-type: text/plain"], "POST service/x", "401 token_missing"),
        (&["/x", "-d", "a=b", "-X", "PUT"], "PUT service/x", "401 token_missing"),
        (&["-X", "CONNECT", "web.shop:8080"], "CONNECT web.shop:8080", "401 token_missing"),
    ];
    for (arguments, title, decision) in cases {
        let shown = explained(&[&WEB[..], arguments].concat());
        assert_eq!(shown["request"], *title, "{arguments:?}: {shown}");
        let of = &shown["decision"];
        let code = of["code"].as_str().map_or_else(String::new, |code| format!(" {code}"));
        assert_eq!(format!("{}{code}", of["status"]), *decision, "{arguments:?}: {shown}");
        assert!(!shown.to_string().contains("dXNlcjpI"), "{shown}");
    }
    for (arguments, expected) in [
        (&["http://"][..], "expected a URL with a host, or a path that begins with `/`"),
        (&["?a=b"], "expected a URL with a host, or a path that begins with `/`"),
        (&["ftp://web.shop/"], "expected a URL with `http` or `https`"),
        (&["/x", "-H", "authorization"], "--header: expected `NAME: VALUE`"),
        (&["/x", "-d", "@nowhere"], "--data: nowhere: No such file"),
        (&["/x", "-G"], "--get: expected `--data`"),
        (&["/x", "-b", "cookies.txt"], "--cookie: expected `NAME=VALUE`"),
    ] {
        let shown = explained(&[&WEB[..], arguments].concat());
        assert!(shown.as_str().is_some_and(|shown| shown.contains(expected)), "{arguments:?}: {shown}");
    }
    let with_cookies = explained(&["--label", "app=api", "/x", "-b", "session=HUNTER2; a=b", "-b", "c=d"]);
    let text = with_cookies.to_string();
    assert!(text.contains("key cookie session") && !text.contains("HUNTER2"), "{text}");
}

#[test]
fn plugin_runs_on_its_ports() {
    let on = |more: &[&str]| {
        let shown = explained(&[&["--label", "app=web"][..], more].concat());
        (shown["decision"]["status"].as_u64(), shown["notes"].to_string())
    };
    let only = "WasmPlugin shop/web runs on the ports 8080, 8081 of the pod only, and the request is";
    for (arguments, status, note) in [
        (&["/x", "--port", "8081"][..], 401, "null"),
        (&["http://web.shop:8080/x"], 401, "null"),
        (&["http://web.shop:80/x", "--port", "8080"], 401, "null"),
        (&["/x"], 401, "taken to come to one of them (`--port`)"),
        (&["http://web.shop:80/x"], 200, "for the port 80 (`--port`)"),
        (&["/x", "--port", "9090"], 200, "for the port 9090 (`--port`)"),
        (&["/x", "--gateway", "--port", "8080"], 200, "runs on the port 80 of the gateway only"),
    ] {
        let (found, notes) = on(arguments);
        assert_eq!(found, Some(status), "{arguments:?}: {notes}");
        assert!(notes.contains(note), "{arguments:?}: {notes}");
        assert_eq!(notes.contains(only), note.ends_with("(`--port`)"), "{arguments:?}: {notes}");
    }
}

#[test]
fn what_chooses_no_plugin_says_what_would() {
    for (arguments, expected) in [
        (&["--namespace", "shop"][..], "expected the labels of a pod, such as `--label app=orders`"),
        (&["--namespace", "other"], "WasmPlugin shop/web is of `--namespace shop` `--label app=web`"),
        (&["--label", "app=none"], "WasmPlugin shop/web is of `--namespace shop` `--label app=web`"),
        (&["--plugin", "none"], "WasmPlugin shop/web is of `--namespace shop` `--label app=web`"),
    ] {
        let shown = explained(&[arguments, &["/x"]].concat());
        assert!(shown.as_str().is_some_and(|shown| shown.contains(expected)), "{arguments:?}: {shown}");
    }
}

#[test]
fn programs_read_the_reply_and_the_tags() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let run = |config: &str, more: &[&str]| -> serde_json::Value {
        let (code, out, err) =
            run(&root, &[&["explain", "-c", config, "--format", "json", "/orders/7"][..], more].concat());
        assert_eq!(code, Some(0), "{err}");
        serde_json::from_str(&out).unwrap()
    };
    let shown = run("testdata/explain/orders.yaml", &[]);
    assert_eq!(shown["reply"]["status"], 401);
    let headers = shown["reply"]["headers"].as_array().unwrap();
    let challenge = serde_json::json!({ "name": "www-authenticate", "value": "Bearer realm=\"service\"" });
    assert!(headers.contains(&challenge), "{shown}");
    let body: serde_json::Value = serde_json::from_str(shown["reply"]["body"].as_str().unwrap()).unwrap();
    assert_eq!(body["code"], "token_missing");
    assert_eq!(shown["tags"]["request.id"], "00000000-0000-4000-8000-000000000001", "{shown}");
}

#[test]
fn pseudonym_has_a_key_id_that_the_filter_takes() {
    let of = |id: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_mesh-filters"))
            .args(["pseudonym", "alice", "--key-id", id])
            .env("PSEUDONYM_KEY", "a-key-of-thirty-two-bytes-or-more")
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, out, err) = of("2026a");
    assert!(code == Some(0) && out.starts_with("2026a."), "{out}{err}");
    for id in ["", "a.b", "0123456789abcdefg", "é"] {
        let (code, out, err) = of(id);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{id}");
        assert!(err.contains("--key-id: expected 1 to 16 ASCII letters and digits"), "{err}");
    }
}

/// The time counts that the processor takes, whatever else the machine does. A release takes less.
#[test]
#[cfg(unix)]
fn thousand_resources_are_checked_in_under_a_second() {
    let mut text = String::new();
    for n in 0..250 {
        let meta = |name: &str| format!("metadata: {{ name: {name}-{n}, namespace: ns-{} }}", n % 20);
        let plugin = |filter: &str, phase: &str, config: &str| {
            format!(
                "kind: WasmPlugin\n{}\nspec:\n  selector: {{ matchLabels: {{ app: app-{n} }} }}\n  url: oci://a.example/b@sha256:0\n  \
                 pluginName: {filter}\n  phase: {phase}\n  match: [{{ mode: SERVER }}]\n  pluginConfig:\n{config}---\n",
                meta(filter)
            )
        };
        text += &plugin(
            "jwt-auth",
            "AUTHN",
            &format!(
                "    providers: {{ shop: {{ issuer: https://a.example/, audiences: [a], jwksUri: http://app-{n}.ns-{}.svc.cluster.local/k }} \
                 }}\n    publishClaims: [sub]\n    rules:\n      - {{ match: {{ paths: [/health], methods: [GET] }}, allow: anyone }}\n      - {{ \
                 match: {{ paths: [/a/*] }}, require: {{ scopes: [a] }} }}\n",
                n % 20
            ),
        );
        let limits = "    limits: [{ name: a, key: [{ claim: sub }], rate: { requests: 9, per: 1m } }]\n";
        text += &plugin("rate-limit", "AUTHZ", limits);
        text += &format!(
            "kind: Service\n{}\nspec: {{ ports: [{{ name: http, port: 80 }}] }}\n---\n",
            meta("app")
        );
        let pod = format!("metadata: {{ labels: {{ app: app-{n} }} }}, spec: {{ containers: [] }}");
        text += &format!("kind: Deployment\n{}\nspec: {{ template: {{ {pod} }} }}\n---\n", meta("app"));
    }
    let folder = folder("thousand");
    fs::write(folder.join("all.yaml"), text).unwrap();
    let script = format!("{} check all.yaml && times", env!("CARGO_BIN_EXE_mesh-filters"));
    let output = Command::new("sh").args(["-c", &script]).current_dir(&folder).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with("500 plugins in 1 file checked: nothing found"), "{said}");
    // The second line of `times` is about the commands: user and system, such as `0m0.390s 0m0.012s`.
    let took = said.lines().last().unwrap();
    assert!(took.split(' ').all(|one| one.starts_with("0m0.")), "{took}");
}

#[test]
fn long_stream_and_long_list_are_read_to_their_ends() {
    let folder = folder("long");
    let maps = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: a }\n---\n".repeat(1_500);
    let wrong = "limits: [{ name: a, rate: { requests: 1, per: 1 } }]\n";
    fs::write(folder.join("stream.yaml"), maps + wrong).unwrap();
    let item = "- { apiVersion: v1, kind: ConfigMap, metadata: { name: a, namespace: b }, data: { x: y } }\n";
    let plugin = "- { kind: WasmPlugin, metadata: { name: l }, spec: { pluginName: rate-limit, pluginConfig: { limits: 1 } } }\n";
    fs::write(folder.join("list.yaml"), format!("kind: List\nitems:\n{}{plugin}", item.repeat(12_000)))
        .unwrap();
    for (file, expected) in [("stream.yaml", "limits[0].rate.per"), ("list.yaml", "limits: ")] {
        let (code, out, err) = run(&folder, &["check", file]);
        assert_eq!(code, Some(1), "{err}");
        assert!(out.contains(expected), "{out}");
    }
}
