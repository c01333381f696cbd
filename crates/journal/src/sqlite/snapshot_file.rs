//! One snapshot: the books at a place in the log, as a file.
//!
//! The file is a mark, then blocks of a length, a checksum and as many bytes: first what the snapshot is of, then the
//! allocations, many to a block, then the fleet, if there is one, its agents and its tasks, then what there is for the
//! planner, and at last how many there were of each. It is written under another name and gets its own
//! only once all of it is on the disk, so that a crash leaves no half of one. Whatever is wrong with it (a bit, a
//! missing end, another format) makes it unusable, never something else than what was written.

use super::super::SnapshotFault;
use super::snapshots;
use cortex_core::Cluster;
use cortex_core::fleet::image::FleetOutline;
use cortex_core::ids::ServerInstanceId;
use cortex_core::image::{AllocationImage, Outline, Restoration};
use cortex_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// What every snapshot begins with; the last digits are the version of the format.
const MARK: &[u8; 16] = b"cortex-snap-0001";

/// How many bytes a block is filled with before the next begins.
const BLOCK_BYTES: usize = 64 << 10;

/// The longest block that is read: one allocation of the largest size beyond a full block, and far more.
const BLOCK_BYTES_MAX: u32 = 64 << 20;

/// After how many bytes what was written is sent to the disk, so that no flood of it holds up the log's own commits.
const SYNC_BYTES: usize = 1 << 20;

/// Where in a log a snapshot was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// The id of the log.
    pub log_id: String,
    /// The last event in it.
    pub sequence: u64,
    /// The checksum over all events up to there.
    pub chain: u32,
    /// When that event happened, in milliseconds since 1970.
    pub at_millis: i64,
}

impl Anchor {
    /// When the last event in it happened.
    #[must_use]
    pub const fn at(&self) -> Timestamp {
        Timestamp::from_millis(self.at_millis)
    }
}

#[derive(Serialize, Deserialize)]
enum Block<'a> {
    Start {
        anchor: Anchor,
        outline: Outline,
    },
    Allocations {
        #[serde(borrow)]
        allocations: Vec<AllocationImage<'a>>,
    },
    End {
        allocations: u64,
    },
    // Blocks of an earlier program end above: what stands below can only be added to.
    Fleet {
        outline: FleetOutline,
    },
    Agents {
        agents: Vec<String>,
    },
    Tasks {
        tasks: Vec<String>,
    },
    FleetEnd {
        agents: u64,
        tasks: u64,
    },
    Planned {
        planned: String,
    },
    /// Before the allocations.
    PrivateServers {
        instances: Vec<ServerInstanceId>,
    },
}

/// Writes a snapshot to a file that is made anew. `goes_on` is asked now and then whether to go on.
///
/// # Errors
/// The system's; [`io::ErrorKind::Interrupted`] if it was not to go on.
pub(super) fn write(path: &Path, anchor: &Anchor, books: &Cluster, goes_on: &dyn Fn() -> bool) -> io::Result<()> {
    let mut file = Blocks { file: snapshots::create_private(path)?, unsynced: 0 };
    file.file.write_all(MARK)?;
    file.put(&Block::Start { anchor: anchor.clone(), outline: books.outline() })?;
    let instances: Vec<_> = books.private_servers().into_iter().collect();
    if !instances.is_empty() {
        file.put(&Block::PrivateServers { instances })?;
    }
    // An estimate is enough: most of an allocation is of fixed size.
    let images = books.allocation_images();
    let allocations =
        file.put_all(images, AllocationImage::bytes_about, goes_on, |allocations| Block::Allocations { allocations })?;
    if let Some(outline) = books.fleet_outline() {
        file.put(&Block::Fleet { outline })?;
        let agents = file.put_all(books.agent_images(), String::len, goes_on, |agents| Block::Agents { agents })?;
        let tasks = file.put_all(books.task_images(), String::len, goes_on, |tasks| Block::Tasks { tasks })?;
        file.put(&Block::FleetEnd { agents, tasks })?;
    }
    if let Some(planned) = books.planned_image() {
        file.put(&Block::Planned { planned })?;
    }
    file.put(&Block::End { allocations })?;
    file.file.sync_all()
}

struct Blocks {
    file: File,
    unsynced: usize,
}

impl Blocks {
    /// Writes images, as many to a block as fill it, and says how many there were.
    fn put_all<'a, T>(
        &mut self,
        images: impl Iterator<Item = T>,
        bytes_about: impl Fn(&T) -> usize,
        goes_on: &dyn Fn() -> bool,
        block: impl Fn(Vec<T>) -> Block<'a>,
    ) -> io::Result<u64> {
        let mut images = images.peekable();
        let mut count = 0;
        while images.peek().is_some() {
            if !goes_on() {
                return Err(io::Error::from(io::ErrorKind::Interrupted));
            }
            let mut bytes = 0;
            let mut filled = Vec::new();
            while let Some(image) = images.next_if(|_| bytes < BLOCK_BYTES) {
                bytes += bytes_about(&image);
                filled.push(image);
            }
            count += filled.len() as u64;
            self.put(&block(filled))?;
        }
        Ok(count)
    }

    fn put(&mut self, block: &Block<'_>) -> io::Result<()> {
        let mut bytes = vec![0; 8];
        bytes = postcard::to_extend(block, bytes).map_err(io::Error::other)?;
        let body = &bytes[8..];
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        let checksum = crc32fast::hash(body);
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        self.file.write_all(&bytes)?;
        self.unsynced += bytes.len();
        if self.unsynced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(())
    }
}

/// Reads where a snapshot was taken, and nothing else of it.
///
/// # Errors
/// [`SnapshotFault`], if that cannot be read.
pub(super) fn read_anchor(path: &Path) -> Result<Anchor, SnapshotFault> {
    let (mut file, mut buffer) = start(path)?;
    let (anchor, _) = read_start(&mut file, &mut buffer)?;
    Ok(anchor)
}

/// Reads a snapshot.
///
/// # Errors
/// [`SnapshotFault`], if anything at all is wrong with it.
pub fn read_snapshot(path: &Path) -> Result<(Anchor, Cluster), SnapshotFault> {
    read_snapshot_while(path, &|| true)
}

/// The same, given up as soon as `goes_on` says no.
pub(super) fn read_snapshot_while(path: &Path, goes_on: &dyn Fn() -> bool) -> Result<(Anchor, Cluster), SnapshotFault> {
    // Books that hold a thing twice are refused by a panic of the lease machine, deep inside.
    catch_unwind(AssertUnwindSafe(|| read_all(path, goes_on)))
        .unwrap_or_else(|_| Err(SnapshotFault("its books contradict themselves".to_owned())))
}

/// Looks whether a snapshot is whole, without making books of it.
///
/// # Errors
/// [`SnapshotFault`], if a block is not what was written or is missing.
pub(super) fn check(path: &Path) -> Result<(), SnapshotFault> {
    let (mut file, mut buffer) = start(path)?;
    read_start(&mut file, &mut buffer)?;
    each_block(&mut file, &mut buffer, |_| Ok(()))
}

fn read_all(path: &Path, goes_on: &dyn Fn() -> bool) -> Result<(Anchor, Cluster), SnapshotFault> {
    let (mut file, mut buffer) = start(path)?;
    let (anchor, outline) = read_start(&mut file, &mut buffer)?;
    let mut books = Restoration::new(outline);
    each_block(&mut file, &mut buffer, |block| {
        if !goes_on() {
            return Err(SnapshotFault("it was not read to its end".to_owned()));
        }
        match block {
            Block::Allocations { allocations } => allocations.iter().try_for_each(|image| books.add(image))?,
            Block::Fleet { outline } => books.add_fleet(outline),
            Block::Agents { agents } => agents.iter().try_for_each(|image| books.add_agent(image))?,
            Block::Tasks { tasks } => tasks.iter().try_for_each(|image| books.add_task(image))?,
            Block::Planned { planned } => books.add_planned(&planned)?,
            Block::PrivateServers { instances } => books.add_private_servers(instances),
            Block::Start { .. } | Block::End { .. } | Block::FleetEnd { .. } => {}
        }
        Ok(())
    })?;
    Ok((anchor, books.finish()))
}

/// Hands over the blocks behind the start, and looks whether they are in order and all there.
fn each_block(
    file: &mut impl Read,
    buffer: &mut Vec<u8>,
    mut take: impl FnMut(Block<'_>) -> Result<(), SnapshotFault>,
) -> Result<(), SnapshotFault> {
    let (mut allocations_seen, mut agents_seen, mut tasks_seen) = (0, 0, 0);
    let mut part = Part::Allocations;
    loop {
        let block = next(file, buffer)?;
        part = match (&block, part) {
            (Block::PrivateServers { .. }, Part::Allocations) if allocations_seen == 0 => Part::Allocations,
            (Block::Allocations { allocations }, Part::Allocations) => {
                allocations_seen += allocations.len() as u64;
                Part::Allocations
            }
            (Block::Fleet { .. }, Part::Allocations) => Part::Agents,
            (Block::Agents { agents }, Part::Agents) => {
                agents_seen += agents.len() as u64;
                Part::Agents
            }
            (Block::Tasks { tasks }, Part::Agents | Part::Tasks) => {
                tasks_seen += tasks.len() as u64;
                Part::Tasks
            }
            (Block::FleetEnd { agents, tasks }, Part::Agents | Part::Tasks)
                if (*agents, *tasks) == (agents_seen, tasks_seen) =>
            {
                Part::Planned
            }
            (Block::Planned { .. }, Part::Allocations | Part::Planned) => Part::End,
            (Block::End { allocations }, Part::Allocations | Part::Planned | Part::End)
                if *allocations == allocations_seen =>
            {
                return Ok(());
            }
            _ => return Err(SnapshotFault("its blocks are not in order".to_owned())),
        };
        take(block)?;
    }
}

/// Which blocks may come.
enum Part {
    /// Allocations, or what follows them.
    Allocations,
    /// Agents, or what follows them.
    Agents,
    /// Tasks, or what follows them.
    Tasks,
    /// What there is for the planner, or the end.
    Planned,
    /// The end alone.
    End,
}

fn start(path: &Path) -> Result<(BufReader<File>, Vec<u8>), SnapshotFault> {
    let file = File::open(path).map_err(|error| SnapshotFault(error.to_string()))?;
    let mut file = BufReader::with_capacity(BLOCK_BYTES, file);
    let mut mark = [0; MARK.len()];
    read(&mut file, &mut mark)?;
    if mark == *MARK {
        Ok((file, Vec::new()))
    } else {
        Err(SnapshotFault("it is in a format that this program does not know".to_owned()))
    }
}

fn read_start(file: &mut impl Read, buffer: &mut Vec<u8>) -> Result<(Anchor, Outline), SnapshotFault> {
    match next(file, buffer)? {
        Block::Start { anchor, outline } => Ok((anchor, outline)),
        _ => Err(SnapshotFault("its blocks are not in order".to_owned())),
    }
}

fn next<'a>(file: &mut impl Read, buffer: &'a mut Vec<u8>) -> Result<Block<'a>, SnapshotFault> {
    let (mut length, mut checksum) = ([0; 4], [0; 4]);
    read(file, &mut length)?;
    read(file, &mut checksum)?;
    let length = u32::from_le_bytes(length);
    if length > BLOCK_BYTES_MAX {
        return Err(SnapshotFault(format!("a block claims to be {length} bytes long")));
    }
    buffer.resize(length as usize, 0);
    read(file, buffer)?;
    if crc32fast::hash(buffer) != u32::from_le_bytes(checksum) {
        return Err(SnapshotFault("a checksum is not that of its block".to_owned()));
    }
    postcard::from_bytes(buffer).map_err(|error| SnapshotFault(format!("a block cannot be read: {error}")))
}

fn read(file: &mut impl Read, bytes: &mut [u8]) -> Result<(), SnapshotFault> {
    file.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => SnapshotFault("it ends too early".to_owned()),
        _ => SnapshotFault(error.to_string()),
    })
}
