//! `polycast token`: signs a token, for development and tests.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde_json::{Map, Value};

use super::{fail, print};
use crate::auth::{Algorithm, SigningKey};
use crate::config::{Config, Sources};

#[derive(Debug, Args)]
#[command(after_help = "\
Without --secret-file and --key-file the secret is the one of the configuration: auth.token_secret\n\
or auth.token_secret_file, of the file or of the environment.")]
pub(super) struct Token {
    /// Whom the token is for (the claim `sub`)
    user: String,
    /// Time until it ends: 15min, 2h, 30d; `never` for no end
    #[arg(long, short, value_name = "TIME", default_value = "1h", value_parser = lifetime)]
    expires: Lifetime,
    /// Configuration file that holds the secret
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["secret_file", "key_file"])]
    config: Option<PathBuf>,
    /// File with the shared secret
    #[arg(long, value_name = "FILE", conflicts_with = "key_file")]
    secret_file: Option<PathBuf>,
    /// File with a private key (PEM): RSA, ECDSA (P-256, P-384 or P-521) or Ed25519
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Algorithm, if it is not the usual one of the key: HS256, RS256, ES256, ES384, ES512 (by the
    /// curve) or `EdDSA`
    #[arg(long, value_name = "NAME", value_parser = algorithm)]
    algorithm: Option<Algorithm>,
    /// Name of the key (`kid`)
    #[arg(long, value_name = "NAME")]
    kid: Option<String>,
    /// Name of the token (`jti`), by which it can be revoked
    #[arg(long, value_name = "NAME")]
    id: Option<String>,
    /// Whom it is meant for (`aud`)
    #[arg(long, value_name = "NAME")]
    audience: Option<String>,
    /// Who issues it (`iss`)
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// A claim; the value is JSON, or else a text; may be repeated
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = claim)]
    claims: Vec<(String, Value)>,
}

/// Seconds, if there is an end.
#[derive(Clone, Copy, Debug)]
struct Lifetime(Option<u64>);

pub(super) fn run(arguments: &Token) -> ExitCode {
    match sign(arguments) {
        Ok(token) => print(&format!("{token}\n")),
        Err(error) => fail(&format!("{error:#}")),
    }
}

fn sign(arguments: &Token) -> Result<String> {
    let key = match &arguments.key_file {
        Some(path) => {
            let pem = std::fs::read(path).with_context(|| path.display().to_string())?;
            SigningKey::from_pem(&pem).context(
                "not a private key (PEM, not encrypted) of RSA, ECDSA (P-256, P-384, P-521) or Ed25519",
            )?
        }
        None => SigningKey::from_secret(secret(arguments)?.as_bytes()),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let claims = claims(arguments, now);
    Ok(key.sign(&claims, arguments.algorithm, arguments.kid.as_deref())?)
}

fn claims(arguments: &Token, now: u64) -> Map<String, Value> {
    let mut claims = Map::new();
    claims.insert("sub".to_owned(), arguments.user.clone().into());
    claims.insert("iat".to_owned(), now.into());
    if let Some(secs) = arguments.expires.0 {
        claims.insert("exp".to_owned(), now.saturating_add(secs).into());
    }
    for (name, value) in [
        ("jti", &arguments.id),
        ("aud", &arguments.audience),
        ("iss", &arguments.issuer),
    ] {
        if let Some(value) = value {
            claims.insert(name.to_owned(), value.clone().into());
        }
    }
    claims.extend(arguments.claims.iter().cloned());
    claims
}

fn secret(arguments: &Token) -> Result<String> {
    let mut file = arguments.secret_file.clone();
    if file.is_none() {
        let sources = Sources::from_process(arguments.config.clone(), Vec::new());
        let config = Config::load(&sources).map_err(|problems| anyhow::anyhow!("{problems}"))?;
        if let Some(secret) = config.auth.token_secret.reveal() {
            return Ok(secret.to_owned());
        }
        file = config.auth.token_secret_file.0;
    }
    let Some(path) = file else {
        bail!("there is no secret: use --secret-file, --key-file or --config");
    };
    let secret = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let secret = secret.trim_end_matches(['\r', '\n']).to_owned();
    ensure!(
        secret.len() >= 32,
        "{}: a secret of less than 32 bytes",
        path.display()
    );
    Ok(secret)
}

fn algorithm(text: &str) -> Result<Algorithm, String> {
    text.parse().map_err(|_| {
        "use HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512 or EdDSA"
            .to_owned()
    })
}

fn lifetime(text: &str) -> Result<Lifetime, String> {
    if text == "never" {
        return Ok(Lifetime(None));
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "s" => 1,
        "min" | "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err("write a number with s, min, h or d, or `never`".to_owned()),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "it does not begin with a whole number")?;
    Ok(Lifetime(Some(number.saturating_mul(factor))))
}

fn claim(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_json_or_text() {
        assert_eq!(claim("a=1").unwrap(), ("a".into(), 1.into()));
        assert_eq!(claim("a=b=c").unwrap(), ("a".into(), "b=c".into()));
        assert_eq!(claim("a=[\"x\"]").unwrap().1, serde_json::json!(["x"]));
        assert!(claim("a").is_err());
    }

    #[test]
    fn algorithms_are_those_of_tokens() {
        assert_eq!(algorithm("ES512"), Ok(Algorithm::Es512));
        assert!(algorithm("RS512").is_ok() && algorithm("EdDSA").is_ok());
        assert!(algorithm("ES256K").is_err() && algorithm("none").is_err());
    }

    #[test]
    fn lifetimes_have_units() {
        assert_eq!(lifetime("2h").unwrap().0, Some(7200));
        assert_eq!(lifetime("15min").unwrap().0, Some(900));
        assert_eq!(lifetime("never").unwrap().0, None);
        assert!(lifetime("7").is_err() && lifetime("h").is_err());
    }
}
