//! Keys in PEM (RFC 7468): public keys, and certificates, of which nothing but the key is looked at.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::keys::der::{self, PublicKey};
use crate::keys::key::Material;
use crate::keys::refused::KeyError;

const BEGIN: &str = "-----BEGIN ";

/// Whether a text begins as PEM does.
pub fn is_pem(text: &str) -> bool {
    text.trim_start().starts_with(BEGIN)
}

/// The key of each block of a text, or why it cannot be used; of no more than `most` blocks.
pub fn keys(text: &str, most: usize) -> Vec<Result<Material, KeyError>> {
    let (mut keys, mut rest) = (Vec::new(), text);
    while keys.len() < most
        && let Some((_, block)) = rest.split_once(BEGIN)
    {
        let parts = block.split_once("-----").and_then(|(label, content)| {
            let (content, behind) = content.split_once(&format!("-----END {label}-----"))?;
            Some((label, content, behind))
        });
        let Some((label, content, behind)) = parts else {
            keys.push(Err(KeyError::Pem));
            break;
        };
        keys.push(key(label, content));
        rest = behind;
    }
    keys
}

/// The key of a block.
fn key(label: &str, content: &str) -> Result<Material, KeyError> {
    let decode = || {
        let content: Vec<u8> = content.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        STANDARD.decode(content).map_err(|_| KeyError::Pem)
    };
    match label {
        "PUBLIC KEY" => material(&decode()?),
        "CERTIFICATE" => material(der::key_of_certificate(&decode()?).ok_or(KeyError::Certificate)?),
        label if label.ends_with("PRIVATE KEY") => Err(KeyError::Private),
        _ => Err(KeyError::Pem),
    }
}

/// The key of a `SubjectPublicKeyInfo`.
fn material(info: &[u8]) -> Result<Material, KeyError> {
    let point = |point: &[u8], size: usize| {
        // Compressed points are not accepted in a JWK set either.
        let is_whole = point.first() == Some(&4) && point.len() == size.saturating_mul(2).saturating_add(1);
        if is_whole { Ok(point.to_vec()) } else { Err(KeyError::Invalid) }
    };
    match der::public_key(info).ok_or(KeyError::Unsupported)? {
        PublicKey::Rsa { n, e } => Material::rsa(n.to_vec(), e.to_vec()),
        PublicKey::P256(key) => point(key, 32).map(Material::P256),
        PublicKey::P384(key) => point(key, 48).map(Material::P384),
        PublicKey::P521(key) => point(key, 66).map(Material::P521),
        PublicKey::Ed25519(key) => Ok(Material::Ed25519(key.to_vec())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pem(label: &str, der: &[u8]) -> String {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
    }

    #[test]
    fn block_that_is_no_public_key_has_a_reason() {
        let p256 = der::p256_public_key(&[&[4][..], &[7; 64]].concat());
        for (text, expected) in [
            (pem("PUBLIC KEY", &p256), Ok(())),
            (pem("PUBLIC KEY", &p256[1..]), Err(KeyError::Unsupported)),
            (pem("CERTIFICATE", &p256), Err(KeyError::Certificate)),
            (pem("CERTIFICATE", b""), Err(KeyError::Certificate)),
            (pem("PRIVATE KEY", &p256), Err(KeyError::Private)),
            (pem("RSA PRIVATE KEY", &p256), Err(KeyError::Private)),
            (pem("RSA PUBLIC KEY", &p256), Err(KeyError::Pem)),
            (pem("PUBLIC KEY", &p256).replace("END PUBLIC", "END"), Err(KeyError::Pem)),
            ("-----BEGIN PUBLIC KEY-----\n?\n-----END PUBLIC KEY-----".to_owned(), Err(KeyError::Pem)),
            ("-----BEGIN PUBLIC KEY".to_owned(), Err(KeyError::Pem)),
            (
                pem("PUBLIC KEY", &der::p256_public_key(&[&[2][..], &[7; 32]].concat())),
                Err(KeyError::Invalid),
            ),
            (
                pem("PUBLIC KEY", &der::p384_public_key(&[&[4][..], &[7; 64]].concat())),
                Err(KeyError::Invalid),
            ),
        ] {
            let found: Vec<_> = keys(&text, 9).into_iter().map(|key| key.map(drop)).collect();
            assert_eq!(found, [expected], "{text}");
        }
    }

    #[test]
    fn no_more_blocks_are_read_than_asked_for() {
        let p256 = pem("PUBLIC KEY", &der::p256_public_key(&[&[4][..], &[7; 64]].concat()));
        assert_eq!(keys(&p256.repeat(5), 9).len(), 5);
        assert_eq!(keys(&p256.repeat(5), 3).len(), 3);
        assert!(keys("no key at all", 9).is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_keys_or_refused(text in ".{0,80}", label in "(PUBLIC KEY|CERTIFICATE|x)") {
            keys(&text, 9);
            keys(&format!("-----BEGIN {label}-----{text}-----END {label}-----"), 9);
        }

        /// A certificate with a byte changed, cut or lengthened is a certificate or refused.
        #[test]
        fn any_change_of_a_certificate_is_read_without_panic(at in 0_usize..2000, byte: u8, cut in 0_usize..2000) {
            let text = include_str!("../../../../testdata/keys/rsa-1.crt");
            let content: String = text.lines().filter(|line| !line.starts_with('-')).collect();
            let mut der = STANDARD.decode(content).unwrap();
            if let Some(changed) = der.get_mut(at) {
                *changed = byte;
            }
            der.truncate(cut);
            keys(&pem("CERTIFICATE", &der), 9);
            let _ = material(&der);
        }
    }
}
