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
        assert_eq!(out.matches("limits[0].rate.per").count(), 1, "{out}");
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
