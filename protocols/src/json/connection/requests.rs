//! What a client that is logged in asks for, as commands to the broker.

use std::borrow::Cow;

use super::super::answer::{What, send};
use super::super::command;
use super::super::error::{ErrorCode, FrameError};
use super::super::frame::{Id, PublishRequest, Request, SubscribeRequest};
use super::super::plain::Plain;
use super::super::write::Object;
use super::{JsonConnection, SILENT, UNANSWERED_MAX, Unanswered};
use crate::connection::{Command, Output, Publish, Secret, Settle, Subscribe, Token};
use crate::model::Timestamp;

impl JsonConnection {
    pub(super) fn request(
        &mut self,
        request: Request<'_>,
        id: Option<Id>,
        now: Timestamp,
        out: &mut Output<'_>,
    ) -> Result<(), FrameError> {
        match request {
            Request::Publish(publish) => return self.publish(*publish, id, now, out),
            Request::Subscribe(subscribe) => return self.subscribe(&subscribe, id, out),
            Request::Unsubscribe { topics, share } => {
                let share = share.as_deref();
                let keys = topics
                    .iter()
                    .map(|topic| command::key(topic, share))
                    .collect();
                let token = self.ask(id, What::Topics(owned(&topics), share.map(Into::into)))?;
                out.commands.push(Command::Unsubscribe { token, keys });
            }
            Request::Join { group, options } => {
                let topic = command::group_topic(&group)?;
                let requests =
                    command::subscriptions([topic.as_str()], None, options, &self.limits);
                let token = self.ask(id, What::Group(group.into()))?;
                out.commands
                    .push(Command::Subscribe(Box::new(Subscribe { token, requests })));
            }
            Request::Leave { group } => {
                let keys = [command::group_topic(&group)?.into()].into_iter().collect();
                let token = self.ask(id, What::Group(group.into()))?;
                out.commands.push(Command::Unsubscribe { token, keys });
            }
            Request::Ack { positions } => {
                let settles = positions.into_iter().map(Settle::Done);
                return self.settle(settles.collect(), id, out);
            }
            Request::Nack { positions, requeue } => {
                let settles = positions
                    .into_iter()
                    .map(|position| Settle::Rejected { position, requeue });
                return self.settle(settles.collect(), id, out);
            }
            Request::Refresh { token: credentials } => {
                let token = self.ask(id, What::Nothing)?;
                out.commands.push(Command::Refresh {
                    token,
                    credentials: Secret(credentials.into_owned().into_bytes().into()),
                });
            }
            Request::Ping => send(out.outbox, Object::frame("pong", id.as_ref())),
            Request::Pong | Request::Disconnect { .. } => {}
            Request::Connect(_) => {
                let detail = "this connection is logged in already";
                return Err(FrameError::new(ErrorCode::AlreadyConnected, detail));
            }
        }
        Ok(())
    }

    fn publish(
        &mut self,
        request: PublishRequest<'_>,
        id: Option<Id>,
        now: Timestamp,
        out: &mut Output<'_>,
    ) -> Result<(), FrameError> {
        let known = (&*self.limits, &mut self.last_topic);
        let publish = command::publish(request, id.is_some(), known, now)?;
        self.put(publish, id, out)
    }

    pub(super) fn publish_plain(
        &mut self,
        request: Plain<'_>,
        out: &mut Output<'_>,
    ) -> Result<(), FrameError> {
        let id = request.id;
        let result = command::publish_plain(request, &self.limits, &mut self.last_topic)
            .and_then(|publish| self.put(publish, id.map(Id::of_json), out));
        result.map_err(|error| FrameError {
            id: id.map(Id::of_json),
            ..error
        })
    }

    /// Asks for an answer even if the client does not, so that a refusal reaches it.
    fn put(
        &mut self,
        mut publish: Publish,
        id: Option<Id>,
        out: &mut Output<'_>,
    ) -> Result<(), FrameError> {
        publish.token = Some(match id {
            Some(_) => self.ask(id, What::Nothing)?,
            None => SILENT,
        });
        out.commands.push(Command::Publish(publish));
        Ok(())
    }

    fn subscribe(
        &mut self,
        request: &SubscribeRequest<'_>,
        id: Option<Id>,
        out: &mut Output<'_>,
    ) -> Result<(), FrameError> {
        let share = request.share.as_deref();
        let filters = request.topics.iter().map(AsRef::as_ref);
        let requests = command::subscriptions(filters, share, request.options, &self.limits);
        let what = What::Topics(owned(&request.topics), share.map(Into::into));
        let token = self.ask(id, what)?;
        out.commands
            .push(Command::Subscribe(Box::new(Subscribe { token, requests })));
        Ok(())
    }

    fn settle(
        &mut self,
        mut settles: Vec<Settle>,
        id: Option<Id>,
        out: &mut Output<'_>,
    ) -> Result<(), FrameError> {
        let token = match id {
            Some(_) => Some(self.ask(id, What::Nothing)?),
            None => None,
        };
        match (token, settles.len()) {
            (Some(token), 2..) => {
                let commands = settles
                    .into_iter()
                    .map(|settle| Command::Settle {
                        token: None,
                        settle,
                    })
                    .collect();
                out.commands.push(Command::Transaction { token, commands });
            }
            (token, _) => out.commands.extend(
                settles
                    .drain(..)
                    .map(|settle| Command::Settle { token, settle }),
            ),
        }
        Ok(())
    }

    /// Remembers a request until its answer comes.
    fn ask(&mut self, id: Option<Id>, what: What) -> Result<Token, FrameError> {
        if self.unanswered.len() >= UNANSWERED_MAX {
            let detail = format!("{UNANSWERED_MAX} requests wait for their answers already");
            return Err(FrameError::new(ErrorCode::QuotaExceeded, detail));
        }
        self.last_token += 1;
        let token = Token(self.last_token);
        self.unanswered.push_back(Unanswered { token, id, what });
        Ok(token)
    }
}

fn owned(topics: &[Cow<'_, str>]) -> Box<[Box<str>]> {
    topics.iter().map(|topic| topic.as_ref().into()).collect()
}
