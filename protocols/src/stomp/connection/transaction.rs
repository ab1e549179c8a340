//! BEGIN, COMMIT and ABORT (STOMP 1.2 §BEGIN): frames that are kept here until they happen
//! together, or not at all.

use bytestring::ByteString;

use super::answers::Wait;
use super::fault::{Fault, quoted};
use super::{StompConnection, required};
use crate::connection::{Cause, Command, Output};
use crate::limits::Limits;
use crate::stomp::Frame;

/// The open transactions of a connection. They end with it.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    open: Vec<Transaction>,
}

#[derive(Debug)]
struct Transaction {
    name: ByteString,
    commands: Vec<Command>,
    bytes: usize,
}

impl Transactions {
    fn begin(&mut self, name: &str, limits: &Limits) -> Result<(), Fault> {
        if self.open.iter().any(|open| open.name == name) {
            let detail = format!("the transaction {} is open already", quoted(name));
            return Err(Fault::protocol("Duplicate transaction", detail));
        }
        let max = limits.stomp_transactions;
        if self.open.len() >= max {
            let detail = format!("a connection has at most {max} open transactions");
            return Err(Fault::of(Cause::Quota, detail));
        }
        self.open.push(Transaction {
            name: name.into(),
            commands: Vec::new(),
            bytes: 0,
        });
        Ok(())
    }

    /// Keeps a command that came in a frame of `bytes`.
    pub(super) fn add(
        &mut self,
        name: &str,
        command: Command,
        bytes: usize,
        limits: &Limits,
    ) -> Result<(), Fault> {
        let open = self.find(name)?;
        let transaction = &mut self.open[open];
        transaction.bytes += bytes + size_of::<Command>();
        let max = limits.stomp_transaction_bytes;
        if transaction.bytes > max {
            let detail = format!("a transaction holds at most {max} bytes");
            return Err(Fault::of(Cause::Quota, detail));
        }
        transaction.commands.push(command);
        Ok(())
    }

    /// Whether it is open.
    pub(super) fn check(&self, name: &str) -> Result<(), Fault> {
        self.find(name).map(drop)
    }

    fn end(&mut self, name: &str) -> Result<Vec<Command>, Fault> {
        let open = self.find(name)?;
        Ok(self.open.remove(open).commands)
    }

    fn find(&self, name: &str) -> Result<usize, Fault> {
        let found = self.open.iter().position(|open| open.name == name);
        found.ok_or_else(|| {
            let detail = format!("the transaction {} is not open", quoted(name));
            Fault::protocol("Unknown transaction", detail)
        })
    }
}

impl StompConnection {
    pub(super) fn begin(&mut self, frame: &Frame<'_>) -> Result<Wait, Fault> {
        let name = required(frame, "transaction")?;
        self.transactions.begin(&name, &self.limits)?;
        Ok(Wait::Ready)
    }

    pub(super) fn commit(
        &mut self,
        frame: &Frame<'_>,
        out: &mut Output<'_>,
    ) -> Result<Wait, Fault> {
        let name = required(frame, "transaction")?;
        let commands = self.transactions.end(&name)?;
        if commands.is_empty() {
            return Ok(Wait::Ready);
        }
        let token = self.answers.token();
        out.commands.push(Command::Transaction { token, commands });
        Ok(Wait::Answer(token))
    }

    pub(super) fn abort(&mut self, frame: &Frame<'_>) -> Result<Wait, Fault> {
        let name = required(frame, "transaction")?;
        self.transactions.end(&name)?;
        Ok(Wait::Ready)
    }
}
