//! `make push` to a real registry, in each way in which registries ask who it is. `make test-services` installs registry and skopeo.
#![allow(clippy::restriction)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use envoy::{Answer, Daemon, Received, Server, values, wait_for};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const USER: &str = "pusher";
const PASSWORD: &str = "s3cret-of-the-test";
/// The password, as `htpasswd -nbB` writes it.
const HTPASSWD: &str = "pusher:$2y$05$eMJXpPfgQ4G0AFNu.BeduOgCqw7CusfYrVR1mjtCrikkQrra0GkIO\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// A registry that is empty, and the settings of an installation.
struct World {
    registry: Daemon,
    settings: TempDir,
}

impl World {
    /// `auth` is the part `auth` of its configuration, if any, and may name files that `prepare` writes into its folder.
    fn start(auth: &str, prepare: impl FnOnce(&Path)) -> Self {
        let registry = Daemon::start("registry", |folder| {
            prepare(folder);
            let auth = auth.replace("FOLDER", folder.to_str().unwrap());
            let storage = folder.join("store");
            let config = format!(
                "version: 0.1\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\nhttp: {{ addr: \"127.0.0.1:0\" }}\n{auth}\n",
                storage.display()
            );
            fs::write(folder.join("config.yaml"), config)?;
            let mut command = Command::new("docker-registry");
            command.arg("serve").arg(folder.join("config.yaml"));
            Ok(command)
        });
        let registry = registry.expect("docker-registry; `make test-services` installs it");
        let settings = tempfile::tempdir().unwrap();
        let shipped = root().join("wasmplugin-manifests/settings/filters/settings.yaml");
        fs::copy(shipped, settings.path().join("settings.yaml")).unwrap();
        Self { registry, settings }
    }

    /// Host and port.
    fn address(&self) -> String {
        wait_for("the registry", || {
            let said = self.registry.output();
            let (_, rest) = said.split_once("listening on ")?;
            Some(rest.split('"').next()?.to_owned())
        })
        .unwrap()
    }

    /// What `make push` runs, for one filter.
    fn push(&self, account: Option<(&str, &str)>) -> Output {
        let mut command = Command::new("python3");
        command.arg(root().join("wasmplugin-manifests/images/images.py")).args(["push", "--insecure"]);
        command.args(["--registry", &format!("{}/team", self.address()), "--settings"]);
        command.arg(self.settings.path().join("settings.yaml")).arg("jwt-auth");
        // Nobody is logged in.
        command.env("HOME", self.settings.path());
        for name in
            ["REGISTRY_USER", "REGISTRY_PASSWORD", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "DOCKER_CONFIG"]
        {
            command.env_remove(name);
        }
        command.env("CARGO_HOME", std::env::var_os("CARGO_HOME").unwrap_or_else(|| home(".cargo")));
        command.env("RUSTUP_HOME", std::env::var_os("RUSTUP_HOME").unwrap_or_else(|| home(".rustup")));
        if let Some((user, password)) = account {
            command.env("REGISTRY_USER", user).env("REGISTRY_PASSWORD", password);
        }
        command.output().unwrap()
    }

    /// Pushes, and expects the registry to have what the settings then say.
    fn push_succeeds(&self, account: Option<(&str, &str)>) {
        let done = self.push(account);
        assert!(done.status.success(), "{}", text(&done));
        let link = format!(
            "store/docker/registry/v2/repositories/team/jwt-auth/_manifests/tags/{VERSION}/current/link"
        );
        let held = fs::read_to_string(self.registry.folder().join(link)).unwrap();
        let digest = held.strip_prefix("sha256:").unwrap();
        let settings = self.settings();
        for line in [
            format!("  jwt-auth.url: \"oci://{}/team/jwt-auth:{VERSION}\"\n", self.address()),
            format!("  jwt-auth.sha256: \"{digest}\"\n"),
            "  rate-limit.url:\n".to_owned(),
        ] {
            assert!(settings.contains(&line), "no {line} in {settings}");
        }
    }

    fn settings(&self) -> String {
        fs::read_to_string(self.settings.path().join("settings.yaml")).unwrap()
    }
}

fn home(folder: &str) -> std::ffi::OsString {
    Path::new(&std::env::var_os("HOME").unwrap()).join(folder).into()
}

fn text(done: &Output) -> String {
    String::from_utf8_lossy(&[done.stdout.as_slice(), done.stderr.as_slice()].concat()).into_owned()
}

/// A server that gives tokens for the registry: to this account, or to everybody. It notes what was asked.
struct Tokens {
    server: Server,
    asked: Arc<Mutex<Vec<Received>>>,
    certificate: PathBuf,
    _folder: TempDir,
}

impl Tokens {
    fn start(to_everybody: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certificate = folder.path().join("signer.crt");
        let key = root().join("testdata/keys/ec-1.pem");
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-new", "-days", "2", "-subj", "/CN=tokens", "-key"]).arg(&key);
        let made = openssl.arg("-out").arg(&certificate).output().expect("openssl");
        assert!(made.status.success(), "{}", text(&made));
        let pem = fs::read_to_string(&certificate).unwrap();
        let chain = vec![pem.lines().filter(|line| !line.starts_with("-----")).collect::<String>()];
        let key = EncodingKey::from_ec_pem(&fs::read(key).unwrap()).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        let account = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
        let server = Server::start(move |request| {
            let known = values(&request.headers, "authorization") == [account.as_str()];
            noted.lock().unwrap().push(request);
            if !known && !to_everybody {
                return Answer {
                    status: 401,
                    ..Answer::json(&json!({ "errors": [{ "code": "UNAUTHORIZED" }] }))
                };
            }
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
            let claims = json!({
                "iss": "tokens.test", "aud": "registry.test", "sub": USER, "jti": "1",
                "iat": now - 10, "nbf": now - 10, "exp": now + 300,
                "access": [{ "type": "repository", "name": "team/jwt-auth", "actions": ["pull", "push"] }],
            });
            let header = Header { x5c: Some(chain.clone()), ..Header::new(Algorithm::ES256) };
            Answer::json(&json!({ "token": jsonwebtoken::encode(&header, &claims, &key).unwrap() }))
        });
        Self { server: server.unwrap(), asked, certificate, _folder: folder }
    }

    /// A registry that sends its clients here.
    fn registry(&self) -> World {
        let auth = format!(
            "auth: {{ token: {{ realm: \"http://{}/token\", service: registry.test, issuer: tokens.test, rootcertbundle: \"{}\" }} }}",
            self.server.address(),
            self.certificate.display()
        );
        World::start(&auth, |_| {})
    }

    fn scopes(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|request| request.path.clone()).collect()
    }
}

#[test]
fn a_push_to_a_registry_with_tokens_succeeds_and_repeats_to_the_same_digest() {
    let tokens = Tokens::start(false);
    let world = tokens.registry();
    world.push_succeeds(Some((USER, PASSWORD)));
    let first = world.settings();
    world.push_succeeds(Some((USER, PASSWORD)));
    assert_eq!(world.settings(), first);
    let scopes = tokens.scopes();
    let wanted = "scope=repository%3Ateam%2Fjwt-auth%3Apull%2Cpush";
    assert!(scopes.iter().any(|path| path.contains(wanted)), "{scopes:?}");
}

#[test]
fn a_push_to_a_registry_that_gives_tokens_to_everybody_succeeds_without_an_account() {
    let tokens = Tokens::start(true);
    tokens.registry().push_succeeds(None);
    let asked = tokens.asked.lock().unwrap();
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|request| values(&request.headers, "authorization").is_empty()));
}

#[test]
fn a_push_to_a_registry_with_a_password_succeeds() {
    let auth = "auth: { htpasswd: { realm: registry, path: FOLDER/htpasswd } }";
    let world = World::start(auth, |folder| fs::write(folder.join("htpasswd"), HTPASSWD).unwrap());
    world.push_succeeds(Some((USER, PASSWORD)));
}

#[test]
fn a_push_to_an_open_registry_succeeds_without_an_account() {
    World::start("", |_| {}).push_succeeds(None);
}

#[test]
fn a_push_that_is_refused_changes_no_settings_and_does_not_show_the_password() {
    let tokens = Tokens::start(false);
    let world = tokens.registry();
    let before = world.settings();
    let wrong = "another-s3cret";
    let done = world.push(Some((USER, wrong)));
    let said = text(&done);
    assert!(
        !done.status.success() && said.contains(&format!("/team/jwt-auth:{VERSION} was not pushed: ")),
        "{said}"
    );
    assert!(!said.contains(wrong), "{said}");
    assert_eq!(world.settings(), before);
}
