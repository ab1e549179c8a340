//! Looks at the journal of a stopped broker without changing anything in it: for `polycast data`.

use std::path::Path;

use protocols::model::Timestamp;

use super::super::codec;
use super::super::{Recovered, Seq};
use super::directory::{self, FORMAT, JOURNAL, OpenError, segment_name, segment_number};
use super::disk::{Disk, RealDisk, read_all};
use super::replay::{Damage, ReplayError, replay};
use super::segment::{Found, Kind, Scan, SegmentKey};

/// What was found in a data directory.
#[derive(Debug)]
pub struct Inspection {
    /// The format of its files.
    pub format: u32,
    /// What a broker would start with.
    pub recovered: Recovered,
    /// The last unit.
    pub last: Seq,
    /// Files of the journal.
    pub segments: u64,
    /// Bytes of these.
    pub journal_bytes: u64,
    /// Bytes of what is live in them, about.
    pub live_bytes: u64,
    /// Entries in all queues; a message in two queues counts twice.
    pub entries: u64,
    /// Records whose contents were checked.
    pub records: u64,
    /// A write at the end that a crash tore. It was never acknowledged; the next start cuts it.
    pub torn: Option<Damage>,
    /// What does not verify.
    pub damage: Vec<Damage>,
}

/// Reads all of a data directory that no broker uses. With `deep` every message is decoded too,
/// which needs time and nothing else. `now` is the time; what expired before is left out.
pub fn inspect(path: &Path, deep: bool, now: Timestamp) -> Result<Inspection, OpenError> {
    let _lock = directory::lock(path, false)?;
    let disk = RealDisk::new(path);
    let store = directory::prepare(&disk, false)?;
    let replayed = match replay(&disk, store, now, usize::MAX, None) {
        Ok(replayed) => replayed,
        Err(ReplayError::Open(error)) => return Err(error),
        Err(ReplayError::Unfit(problem)) => {
            let (path, what) = (disk.path(JOURNAL), problem.to_string());
            return Err(OpenError::Unknown { path, what });
        }
    };
    let torn = replayed.torn.clone().zip(replayed.tail);
    let segments = &replayed.memory.segments;
    let mut inspection = Inspection {
        format: FORMAT,
        last: replayed.seq,
        segments: segments.len() as u64,
        journal_bytes: segments.bytes(),
        live_bytes: segments.live_bytes(),
        entries: replayed.memory.entries(),
        records: 0,
        torn: torn.map(|(bytes, tail)| Damage {
            name: segment_name(tail.number),
            bytes,
            what: "a write that was torn".to_owned(),
        }),
        damage: replayed.damage,
        recovered: replayed.known.recovered(&replayed.memory),
    };
    if deep {
        inspection.check_records(&disk, store)?;
    }
    Ok(inspection)
}

impl Inspection {
    /// Decodes every record, which a start does only with those that it needs.
    fn check_records(&mut self, disk: &dyn Disk, store: u64) -> Result<(), OpenError> {
        let names = disk
            .list(JOURNAL)
            .map_err(|error| OpenError::io(disk.path(JOURNAL), "list", error))?;
        for number in names.iter().filter_map(|name| segment_number(name)) {
            let name = segment_name(number);
            let bytes = disk
                .open(&name)
                .and_then(|file| read_all(file.as_ref()))
                .map_err(|error| OpenError::io(disk.path(&name), "read", error))?;
            let torn = self.torn.as_ref().filter(|torn| torn.name == name);
            let end = torn.map_or(bytes.len(), |torn| torn.bytes.start);
            for found in Scan::new(&bytes[..end], SegmentKey { store, number }) {
                let Found::Record(record) = found else {
                    continue;
                };
                self.records += 1;
                // What cannot even be scanned was noticed before.
                let scans = codec::scan(record.payload).all(|record| record.is_ok());
                if record.kind != Kind::Mark
                    && scans
                    && let Err(malformed) = codec::decode(record.payload)
                {
                    self.damage.push(Damage {
                        name: name.clone(),
                        bytes: record.offset..record.end(),
                        what: malformed.to_string(),
                    });
                }
            }
        }
        Ok(())
    }
}
