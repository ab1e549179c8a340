//! The methods together: which one decides, and what is refused how.

use base64::Engine as _;
use bytes::Bytes;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use protocols::connection::{Connect, RefusalCode, Secret};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::super::passwords::{Entries, hash, write};
use super::super::{Credentials, Door};
use super::*;
use crate::config::Sources;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn config(settings: &[(&str, &str)]) -> Config {
    let variable = |(name, value): &(&str, &str)| (format!("POLYCAST_{name}"), (*value).to_owned());
    let sources = Sources {
        variables: settings.iter().map(variable).collect(),
        ..Sources::default()
    };
    Config::load(&sources).unwrap_or_else(|problems| panic!("{problems}"))
}

fn authenticator(settings: &[(&str, &str)]) -> Arc<Authenticator> {
    let metrics = Arc::new(Metrics::new(&["test"]));
    let list = Arc::new(Revocations::new(10));
    let clock = Clock::pretended();
    Authenticator::new(&config(settings), clock, metrics, list, None).unwrap()
}

const TOKEN: [(&str, &str); 2] = [("AUTH__METHODS", "token"), ("AUTH__TOKEN_SECRET", SECRET)];

/// A token with a random name, which ends so many seconds from now.
fn token(auth: &Authenticator, user: &str, secs: u64) -> String {
    let now = auth.clock.now().0 / 1000;
    let claims =
        json!({"sub": user, "exp": now + secs, "iat": now, "jti": format!("{user}-{secs}")});
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap()
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn by_password(user: &str, password: &str) -> Credentials {
    let connect = Connect {
        client_id: Some("c".into()),
        username: Some(user.into()),
        password: Some(bytes(password)),
        ..Connect::default()
    };
    Credentials::of_login(&connect, &Door::default())
}

fn by_token(token: &str) -> Credentials {
    let connect = Connect {
        client_id: Some("c".into()),
        token: Some(Secret(bytes(token))),
        ..Connect::default()
    };
    Credentials::of_login(&connect, &Door::default())
}

fn nobody(on_loopback: bool) -> Credentials {
    let door = Door {
        on_loopback,
        ..Door::default()
    };
    Credentials::of_login(&Connect::default(), &door)
}

/// The answer, which must be there without waiting.
fn now(answer: Answer) -> Result<Identity, RefusalCode> {
    match answer {
        Answer::Now(answer) => answer.map_err(|refusal| refusal.code),
        Answer::Later(_) => panic!("it has to wait"),
    }
}

async fn later(answer: Answer) -> Result<Identity, RefusalCode> {
    let answer = match answer {
        Answer::Now(answer) => answer,
        Answer::Later(asking) => asking.await,
    };
    answer.map_err(|refusal| refusal.code)
}

fn user(answer: Result<Identity, RefusalCode>) -> Result<String, RefusalCode> {
    answer.map(|identity| identity.user.map_or(String::new(), |user| user.to_string()))
}

#[test]
fn anonymous_clients_are_let_in_where_it_is_safe() {
    let none = authenticator(&[]);
    assert!(now(none.log_in(nobody(true))).is_ok());
    let mut named = nobody(true);
    named.username = Some("ann".into());
    assert_eq!(
        user(now(none.log_in(named.clone()))),
        Ok("ann".into()),
        "as it calls itself"
    );
    assert_eq!(
        now(none.log_in(nobody(false))),
        Err(RefusalCode::NotAuthorized)
    );

    let closed = authenticator(&TOKEN);
    assert_eq!(
        now(closed.log_in(nobody(true))),
        Err(RefusalCode::NotAuthorized)
    );
    let local = [("SECURITY__ANONYMOUS", "loopback"), TOKEN[0], TOKEN[1]];
    let local = authenticator(&local);
    assert_eq!(
        user(now(local.log_in(named))),
        Ok(String::new()),
        "a name proves nothing"
    );
    assert_eq!(
        now(local.log_in(nobody(false))),
        Err(RefusalCode::NotAuthorized)
    );
    let wrong = now(local.log_in(by_token("x")));
    assert_eq!(
        wrong,
        Err(RefusalCode::BadCredentials),
        "who says something must be right"
    );
}

#[test]
fn a_token_of_a_local_key_is_checked_without_waiting() {
    let auth = authenticator(&TOKEN);
    let good = token(&auth, "ann", 60);
    assert_eq!(user(now(auth.log_in(by_token(&good)))), Ok("ann".into()));
    assert_eq!(
        user(now(auth.log_in(by_password("x", &good)))),
        Ok("ann".into())
    );
    let wrong = now(auth.log_in(by_password("ann", "word")));
    assert_eq!(
        wrong,
        Err(RefusalCode::BadCredentials),
        "no method knows passwords"
    );
    let text = auth.metrics.render();
    assert!(
        text.contains("authentications_total{method=\"token\"} 2"),
        "{text}"
    );
    assert!(
        text.contains("authentications_refused_total{reason=\"not_accepted\"} 1"),
        "{text}"
    );
}

#[test]
fn a_renewed_token_is_of_the_same_user() {
    let auth = authenticator(&TOKEN);
    let refresh = |token: &str, user: &str| {
        let credentials = Credentials::of_refresh(Secret(bytes(token)), "c".into());
        now(auth.refresh(credentials, Some(user.into())))
    };
    let good = token(&auth, "ann", 120);
    assert_eq!(user(refresh(&good, "ann")), Ok("ann".into()));
    assert_eq!(refresh(&good, "bob"), Err(RefusalCode::NotAuthorized));
    assert_eq!(refresh("", "ann"), Err(RefusalCode::BadCredentials));
}

#[test]
fn what_is_revoked_is_refused() {
    let auth = authenticator(&TOKEN);
    let (one, two) = (token(&auth, "ann", 60), token(&auth, "ann", 61));
    auth.revoke(&Subject::Token("ann-60".into()), None);
    assert_eq!(
        now(auth.log_in(by_token(&one))),
        Err(RefusalCode::NotAuthorized)
    );
    assert!(now(auth.log_in(by_token(&two))).is_ok());
    auth.revoke(&Subject::User("ann".into()), None);
    assert_eq!(
        now(auth.log_in(by_token(&two))),
        Err(RefusalCode::NotAuthorized)
    );
    auth.clock.advance(Duration::from_secs(2));
    let new = token(&auth, "ann", 62);
    assert!(now(auth.log_in(by_token(&new))).is_ok(), "issued later");
}

#[test]
fn a_client_is_warned_before_the_end() {
    let auth = authenticator(&TOKEN);
    let identity = now(auth.log_in(by_token(&token(&auth, "ann", 600)))).unwrap();
    let end = identity.expires_at.unwrap();
    assert_eq!(auth.warns_at(&identity), Some(Timestamp(end.0 - 60_000)));
    assert_eq!(auth.warns_at(&Identity::default()), None);
}

#[tokio::test]
async fn the_first_method_that_knows_the_client_decides() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("passwords");
    let entries = [("ann".to_owned(), hash(b"word").unwrap())];
    write(&path, &Entries::from(entries)).unwrap();
    let auth = authenticator(&[
        ("AUTH__METHODS", "certificate,token,password"),
        ("AUTH__TOKEN_SECRET", SECRET),
        ("AUTH__PASSWORD_FILE", path.to_str().unwrap()),
    ]);
    let check = |user, word| later(auth.log_in(by_password(user, word)));
    assert_eq!(user(check("ann", "word").await), Ok("ann".into()));
    assert_eq!(
        check("ann", "other").await,
        Err(RefusalCode::BadCredentials)
    );
    assert_eq!(check("eve", "word").await, Err(RefusalCode::BadCredentials));
    let door = Door {
        certificate_user: Some("device".into()),
        ..Door::default()
    };
    let mut credentials = by_password("ann", "other");
    credentials.certificate_user = door.certificate_user;
    assert_eq!(user(now(auth.log_in(credentials))), Ok("device".into()));
}

#[test]
fn files_that_are_wrong_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.pem");
    let try_key = |content: &str| {
        std::fs::write(&path, content).unwrap();
        let settings = [
            ("AUTH__METHODS", "token"),
            ("AUTH__TOKEN_KEY_FILES", path.to_str().unwrap()),
        ];
        let metrics = Arc::new(Metrics::new(&["test"]));
        let list = Arc::new(Revocations::new(1));
        let made = Authenticator::new(&config(&settings), Clock::start(), metrics, list, None);
        made.map(drop).map_err(|error| format!("{error:#}"))
    };
    assert_eq!(try_key(include_str!("testdata/rsa.pub.pem")), Ok(()));
    assert_eq!(try_key(include_str!("testdata/ec.pub.pem")), Ok(()));
    assert_eq!(try_key(include_str!("testdata/ed.pub.pem")), Ok(()));
    let private = try_key(include_str!("testdata/ed.pem")).unwrap_err();
    assert!(
        private.contains("key.pem") && private.contains("private key"),
        "{private}"
    );
    assert!(try_key("garbage").unwrap_err().contains("key.pem"));
}

/// A server of HTTP that gives these answers in turn, and counts the requests.
async fn serve(answers: Vec<String>) -> (String, Arc<std::sync::atomic::AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        for answer in answers {
            let (mut socket, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let mut request = [0; 4096];
            let _ = socket.read(&mut request).await.unwrap();
            // Who has read enough goes.
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    (url, count)
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
}

#[tokio::test]
async fn the_service_is_asked_once_while_its_answer_is_young() {
    let yes = answer(
        "200 OK",
        "Cache-Control: max-age=60\r\n",
        r#"{"allow":true,"user":"bob"}"#,
    );
    let no = answer("403 Forbidden", "", "");
    let (url, count) = serve(vec![yes, no.clone(), no]).await;
    let auth = authenticator(&[("AUTH__METHODS", "callback"), ("AUTH__CALLBACK_URL", &url)]);
    let count = || count.load(std::sync::atomic::Ordering::SeqCst);
    let check = |word| later(auth.log_in(by_password("ann", word)));
    assert_eq!(user(check("a").await), Ok("bob".into()));
    assert_eq!(user(check("a").await), Ok("bob".into()));
    assert_eq!(count(), 1);
    assert_eq!(check("b").await, Err(RefusalCode::NotAuthorized));
    auth.clock.advance(Duration::from_mins(1));
    assert_eq!(check("a").await, Err(RefusalCode::NotAuthorized));
    assert_eq!(count(), 3);
    // Nobody listens any more.
    assert_eq!(check("c").await, Err(RefusalCode::Unavailable));
}

#[tokio::test]
async fn a_service_that_cannot_answer_lets_nobody_in() {
    let nonsense = answer("200 OK", "", "<html>");
    let (url, _) = serve(vec![answer("500 Oh", "", ""), nonsense.clone(), nonsense]).await;
    let settings = [("AUTH__METHODS", "callback"), ("AUTH__CALLBACK_URL", &*url)];
    let auth = authenticator(&settings);
    for _ in 0..2 {
        let answered = later(auth.log_in(by_password("ann", "a"))).await;
        assert_eq!(answered, Err(RefusalCode::Unavailable));
    }
    let next = ("AUTH__CALLBACK_UNAVAILABLE", "next");
    let auth = authenticator(&[settings[0], settings[1], next]);
    let answered = later(auth.log_in(by_password("ann", "a"))).await;
    assert_eq!(answered, Err(RefusalCode::Unavailable), "nobody else knows");
}

fn key_set(kid: &str, public: &str) -> String {
    let key = DecodingKey::from_ed_pem(public.as_bytes()).unwrap();
    let bytes = key.try_get_as_bytes().unwrap();
    let x = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&bytes[bytes.len() - 32..]);
    let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x}]});
    answer("200 OK", "", &set.to_string())
}

/// Rotation by `kid`; the pause between attempts; a host that is down.
#[tokio::test]
async fn keys_are_fetched_when_they_are_needed_and_not_more_often() {
    let public = include_str!("testdata/ed.pub.pem");
    let (url, count) = serve(vec![
        answer("503 Not now", "", ""),
        key_set("one", public),
        key_set("two", public),
    ])
    .await;
    let auth = authenticator(&[("AUTH__METHODS", "token"), ("AUTH__TOKEN_JWKS_URL", &url)]);
    let count = || count.load(std::sync::atomic::Ordering::SeqCst);
    let key = EncodingKey::from_ed_pem(include_bytes!("testdata/ed.pem")).unwrap();
    let check = |kid: &str| {
        let header = Header {
            kid: Some(kid.into()),
            ..Header::new(Algorithm::EdDSA)
        };
        let claims = json!({"sub": "ann", "exp": auth.clock.now().0 / 1000 + 600});
        let token = jsonwebtoken::encode(&header, &claims, &key).unwrap();
        later(auth.log_in(by_token(&token)))
    };
    assert_eq!(
        check("one").await,
        Err(RefusalCode::Unavailable),
        "the host is down"
    );
    assert_eq!(check("one").await, Err(RefusalCode::Unavailable));
    assert_eq!(count(), 1, "there is a pause between attempts");
    auth.clock.advance(Duration::from_secs(30));
    assert_eq!(user(check("one").await), Ok("ann".into()));
    for _ in 0..3 {
        assert_eq!(check("two").await, Err(RefusalCode::BadCredentials));
    }
    assert_eq!(count(), 2);
    auth.clock.advance(Duration::from_secs(30));
    assert_eq!(user(check("two").await), Ok("ann".into()), "rotated");
    auth.clock.advance(Duration::from_secs(30));
    assert_eq!(
        check("one").await,
        Err(RefusalCode::BadCredentials),
        "gone from the set"
    );
    assert_eq!(
        user(check("two").await),
        Ok("ann".into()),
        "the host is down, the keys are young"
    );
    auth.clock.advance(Duration::from_hours(25));
    assert_eq!(
        check("two").await,
        Err(RefusalCode::Unavailable),
        "too old to be trusted"
    );
}

fn signed_by_ed(auth: &Authenticator, kid: &str) -> String {
    let key = EncodingKey::from_ed_pem(include_bytes!("testdata/ed.pem")).unwrap();
    let header = Header {
        kid: Some(kid.into()),
        ..Header::new(Algorithm::EdDSA)
    };
    let claims = json!({"sub": "ann", "exp": auth.clock.now().0 / 1000 + 600});
    jsonwebtoken::encode(&header, &claims, &key).unwrap()
}

/// The first token comes while the keys are being fetched for the start.
#[tokio::test]
async fn a_login_waits_for_the_fetch_that_is_under_way() {
    let (url, count) = serve(vec![key_set("one", include_str!("testdata/ed.pub.pem"))]).await;
    let auth = authenticator(&[("AUTH__METHODS", "token"), ("AUTH__TOKEN_JWKS_URL", &url)]);
    auth.prime();
    let answered = later(auth.log_in(by_token(&signed_by_ed(&auth, "one")))).await;
    assert_eq!(user(answered), Ok("ann".into()));
    assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 1);
}

/// What a host of keys may answer that gives nobody a key: it is not followed, not kept, and lets
/// nobody in.
#[tokio::test]
async fn a_host_that_answers_nonsense_gives_no_keys() {
    let elsewhere = key_set("one", include_str!("testdata/ed.pub.pem"));
    let (other, followed) = serve(vec![elsewhere]).await;
    let secret = r#"{"keys":[{"kty":"oct","kid":"one","alg":"HS256","k":"AAAA"}]}"#;
    let large = format!(r#"{{"keys":[],"x":"{}"}}"#, "x".repeat(300 * 1024));
    let answers = vec![
        answer("302 Found", &format!("Location: {other}\r\n"), ""),
        answer("200 OK", "", "<html>"),
        answer("200 OK", "", "{}"),
        answer("200 OK", "", secret),
        answer("200 OK", "", &large),
        answer("500 Oh", "", ""),
    ];
    let (times, (url, count)) = (answers.len(), serve(answers).await);
    let auth = authenticator(&[("AUTH__METHODS", "token"), ("AUTH__TOKEN_JWKS_URL", &url)]);
    for _ in 0..times {
        let answered = later(auth.log_in(by_token(&signed_by_ed(&auth, "one")))).await;
        assert_eq!(answered, Err(RefusalCode::Unavailable));
        auth.clock.advance(Duration::from_secs(30));
    }
    assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), times);
    assert_eq!(followed.load(std::sync::atomic::Ordering::SeqCst), 0);
}
