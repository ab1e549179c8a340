//! Stories of credentials on live connections: renewed, ended, revoked.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use protocols::connection::{Cause, Secret};
use serde_json::json;

use super::dialect::asking;
use super::each;
use super::world::{World, undisturbed};
use crate::auth::{Authenticator, Revocation, Revocations, Revoked, Subject};
use crate::config::{Config, Sources};
use crate::session::Batch;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

impl World {
    /// One in which clients need a token, which ends at its time to the second.
    fn with_tokens() -> Self {
        let world = Self::new();
        let settings = [
            ("METHODS", "token"),
            ("TOKEN_SECRET", SECRET),
            ("TOKEN_LEEWAY", "0s"),
            ("EXPIRY_WARNING", "0s"),
        ];
        let variables =
            settings.map(|(key, value)| (format!("POLYCAST_AUTH__{key}"), value.to_owned()));
        let sources = Sources {
            variables: variables.to_vec(),
            ..Sources::default()
        };
        let config = Config::load(&sources).expect("settings");
        let metrics = Arc::clone(&world.net.hub.metrics);
        let list = Arc::new(Revocations::new(10));
        let auth = Authenticator::new(&config, world.net.clock, metrics, list, None);
        world.net.auth.store(auth.expect("no files"));
        world.net.hub.set_owned(true);
        world
    }

    /// A token that ends in at least so many seconds, and at most one more.
    fn token(&self, user: &str, secs: u64) -> String {
        let now = self.net.clock.now().0 / 1000;
        let claims = json!({"sub": user, "exp": now + secs + 1, "iat": now, "jti": "t"});
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).expect("a token")
    }

    fn bring(&self, token: &str) {
        *self.token.lock() = Some(Secret(Bytes::copy_from_slice(token.as_bytes())));
    }
}

#[tokio::test]
async fn a_connection_ends_with_its_token() {
    each(async |speaker| {
        let world = World::with_tokens();
        world.bring(&world.token("ann", 2));
        let mut client = world.login(speaker, "client").await;
        undisturbed(&mut client).await;
        world.pass(Duration::from_secs(1));
        client.fence().await;
        world.pass(Duration::from_secs(3));
        let says = speaker.dialect.last_words(Cause::Expired, true);
        client
            .expect_rest(&speaker.ending(says, Cause::Expired))
            .await;
        assert_eq!(world.closed(speaker, "expired"), 1);
        world.is_empty();
    })
    .await;
}

#[tokio::test]
async fn a_new_token_keeps_the_connection() {
    each(async |speaker| {
        let world = World::with_tokens();
        world.bring(&world.token("ann", 2));
        let mut client = world.login(speaker, "client").await;
        let newer = world.token("ann", 8);
        client.publish(asking("$auth/refresh", &newer)).await;
        world.pass(Duration::from_secs(5));
        undisturbed(&mut client).await;
        world.pass(Duration::from_secs(5));
        let says = speaker.dialect.last_words(Cause::Expired, true);
        client
            .expect_rest(&speaker.ending(says, Cause::Expired))
            .await;
        world.is_empty();
    })
    .await;
}

#[tokio::test]
async fn revoked_credentials_end_at_once_and_are_refused_afterwards() {
    each(async |speaker| {
        let world = World::with_tokens();
        let old = world.token("ann", 60);
        world.bring(&world.token("bob", 60));
        let mut other = world.login(speaker, "other").await;
        world.bring(&old);
        let client = world.login(speaker, "client").await;
        let revocation = Revocation {
            subject: Subject::User("ann".into()),
            until: None,
        };
        let mut batch = Batch::new(world.net.clock.now());
        let revoked = world.net.revoke(&revocation, &mut batch);
        batch.finish(&world.net.hub.metrics);
        world.net.keep_revocations().await.expect("in memory");
        let one = Revoked {
            connections: 1,
            sessions: 1,
        };
        assert_eq!(revoked, one);
        let says = speaker.dialect.last_words(Cause::Unauthorized, true);
        client
            .expect_rest(&speaker.ending(says, Cause::Unauthorized))
            .await;
        let mut again = world.open(speaker, super::world::PIPE_BYTES);
        again.send(&speaker.dialect.connect("client", 0)).await;
        // What it has sent is read all the same.
        again.drop().await;
        assert_eq!(world.closed(speaker, "unauthorized"), 2);
        undisturbed(&mut other).await;
        other.drop().await;
        world.is_empty();
    })
    .await;
}
