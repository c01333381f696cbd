//! The file format of a snapshot: the cluster as of one event of the log.
//!
//! The file starts with magic bytes, followed by blocks of a length, a checksum and that many bytes: the anchor and
//! outline, the allocations (many per block), the fleet with its agents and tasks if there is one, the state of the
//! planner, and the number of records. The file is renamed into place only after it is on the disk, so that a crash
//! leaves no incomplete snapshot. Any damage (a changed bit, a missing end, another format) makes it unusable; it is
//! never read as something else than what was written.

use super::snapshots;
use super::snapshots::SnapshotError;
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

/// The first bytes of every snapshot. The last digits are the version of the format.
const MAGIC: &[u8; 16] = b"cortex-snap-0001";

/// A block is full once it has this many bytes.
const BLOCK_BYTES: usize = 64 << 10;

/// The longest block that is accepted: far more than a full block plus one allocation of the largest size.
pub(super) const BLOCK_BYTES_MAX: u32 = 64 << 20;

/// How many bytes are written between two syncs. Small, so that a sync does not delay the commits of the log.
const SYNC_BYTES: usize = 1 << 20;

/// The position of a snapshot in its log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// The id of the log.
    pub log_id: String,
    /// The sequence number of the last event in the snapshot; 0 before the first event.
    pub sequence: u64,
    /// The checksum over all events up to that one.
    pub chain: u32,
    /// The time of that event, in milliseconds since 1970.
    pub at_millis: i64,
}

impl Anchor {
    /// The time of the last event in the snapshot.
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
    // The variants above are those of the first version. New variants are only added at the end, since postcard encodes
    // a variant by its index.
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
    /// Written before the allocations.
    PrivateServers {
        instances: Vec<ServerInstanceId>,
    },
}

/// Writes a snapshot to a new file. Calls `should_continue` before each block.
///
/// # Errors
/// Returns the error of the system, or [`io::ErrorKind::Interrupted`] if `should_continue` returned false.
pub(super) fn write(
    path: &Path,
    anchor: &Anchor,
    cluster: &Cluster,
    should_continue: &dyn Fn() -> bool,
) -> io::Result<()> {
    let mut file = BlockWriter { file: snapshots::create_private(path)?, unsynced: 0 };
    file.file.write_all(MAGIC)?;
    file.put(&Block::Start { anchor: anchor.clone(), outline: cluster.outline() })?;
    let instances: Vec<_> = cluster.private_servers().into_iter().collect();
    if !instances.is_empty() {
        file.put(&Block::PrivateServers { instances })?;
    }
    // The size is an estimate: most of an allocation has a fixed size.
    let images = cluster.allocation_images();
    let allocations = file.put_all(images, AllocationImage::estimated_bytes, should_continue, |allocations| {
        Block::Allocations { allocations }
    })?;
    if let Some(outline) = cluster.fleet_outline() {
        file.put(&Block::Fleet { outline })?;
        let agents =
            file.put_all(cluster.agent_images(), String::len, should_continue, |agents| Block::Agents { agents })?;
        let tasks =
            file.put_all(cluster.task_images(), String::len, should_continue, |tasks| Block::Tasks { tasks })?;
        file.put(&Block::FleetEnd { agents, tasks })?;
    }
    if let Some(planned) = cluster.scaling_state_image() {
        file.put(&Block::Planned { planned })?;
    }
    file.put(&Block::End { allocations })?;
    file.file.sync_all()
}

struct BlockWriter {
    file: File,
    unsynced: usize,
}

impl BlockWriter {
    /// Writes images in blocks and returns the number of images.
    fn put_all<'a, T>(
        &mut self,
        images: impl Iterator<Item = T>,
        estimated_bytes: impl Fn(&T) -> usize,
        should_continue: &dyn Fn() -> bool,
        block: impl Fn(Vec<T>) -> Block<'a>,
    ) -> io::Result<u64> {
        let mut images = images.peekable();
        let mut count = 0;
        while images.peek().is_some() {
            if !should_continue() {
                return Err(io::Error::from(io::ErrorKind::Interrupted));
            }
            let mut bytes = 0;
            let mut filled = Vec::new();
            while let Some(image) = images.next_if(|_| bytes < BLOCK_BYTES) {
                bytes += estimated_bytes(&image);
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

/// Reads only the position of a snapshot.
///
/// # Errors
/// Returns [`SnapshotError`] if the start of the file cannot be read.
pub(super) fn read_anchor(path: &Path) -> Result<Anchor, SnapshotError> {
    let (mut file, mut buffer) = start(path)?;
    let (anchor, _) = read_start(&mut file, &mut buffer)?;
    Ok(anchor)
}

/// Reads a snapshot.
///
/// # Errors
/// Returns [`SnapshotError`] if any part of the file is not what was written.
pub fn read_snapshot(path: &Path) -> Result<(Anchor, Cluster), SnapshotError> {
    read_snapshot_while(path, &|| true)
}

/// Reads a snapshot like [`read_snapshot`], and fails as soon as `should_continue` returns false.
pub(super) fn read_snapshot_while(
    path: &Path,
    should_continue: &dyn Fn() -> bool,
) -> Result<(Anchor, Cluster), SnapshotError> {
    // `Restoration` panics on records that contradict each other.
    catch_unwind(AssertUnwindSafe(|| read_all(path, should_continue)))
        .unwrap_or_else(|_| Err(SnapshotError::Contradictory))
}

/// Checks that a snapshot is complete and intact, without restoring the cluster.
///
/// # Errors
/// Returns [`SnapshotError`] if a block is damaged or missing.
pub(super) fn check(path: &Path) -> Result<(), SnapshotError> {
    let (mut file, mut buffer) = start(path)?;
    read_start(&mut file, &mut buffer)?;
    each_block(&mut file, &mut buffer, |_| Ok(()))
}

fn read_all(path: &Path, should_continue: &dyn Fn() -> bool) -> Result<(Anchor, Cluster), SnapshotError> {
    let (mut file, mut buffer) = start(path)?;
    let (anchor, outline) = read_start(&mut file, &mut buffer)?;
    let mut restoration = Restoration::new(outline);
    each_block(&mut file, &mut buffer, |block| {
        if !should_continue() {
            return Err(SnapshotError::Interrupted);
        }
        match block {
            Block::Allocations { allocations } => allocations.iter().try_for_each(|image| restoration.add(image))?,
            Block::Fleet { outline } => restoration.add_fleet(outline),
            Block::Agents { agents } => agents.iter().try_for_each(|image| restoration.add_agent(image))?,
            Block::Tasks { tasks } => tasks.iter().try_for_each(|image| restoration.add_task(image))?,
            Block::Planned { planned } => restoration.add_scaling_state(&planned)?,
            Block::PrivateServers { instances } => restoration.add_private_servers(instances),
            Block::Start { .. } | Block::End { .. } | Block::FleetEnd { .. } => {}
        }
        Ok(())
    })?;
    Ok((anchor, restoration.finish()))
}

/// Calls `take` with each block after the first, and checks that the blocks are complete and in order.
fn each_block(
    file: &mut impl Read,
    buffer: &mut Vec<u8>,
    mut take: impl FnMut(Block<'_>) -> Result<(), SnapshotError>,
) -> Result<(), SnapshotError> {
    let (mut allocations_seen, mut agents_seen, mut tasks_seen) = (0, 0, 0);
    let mut section = Section::Allocations;
    loop {
        let block = next(file, buffer)?;
        section = match (&block, section) {
            (Block::PrivateServers { .. }, Section::Allocations) if allocations_seen == 0 => Section::Allocations,
            (Block::Allocations { allocations }, Section::Allocations) => {
                allocations_seen += allocations.len() as u64;
                Section::Allocations
            }
            (Block::Fleet { .. }, Section::Allocations) => Section::Agents,
            (Block::Agents { agents }, Section::Agents) => {
                agents_seen += agents.len() as u64;
                Section::Agents
            }
            (Block::Tasks { tasks }, Section::Agents | Section::Tasks) => {
                tasks_seen += tasks.len() as u64;
                Section::Tasks
            }
            (Block::FleetEnd { agents, tasks }, Section::Agents | Section::Tasks)
                if (*agents, *tasks) == (agents_seen, tasks_seen) =>
            {
                Section::Planned
            }
            (Block::Planned { .. }, Section::Allocations | Section::Planned) => Section::End,
            (Block::End { allocations }, Section::Allocations | Section::Planned | Section::End)
                if *allocations == allocations_seen =>
            {
                return Ok(());
            }
            _ => return Err(SnapshotError::OutOfOrder),
        };
        take(block)?;
    }
}

/// The blocks that may come next.
enum Section {
    /// Allocations, or a block of a later section.
    Allocations,
    /// Agents, or a block of a later section.
    Agents,
    /// Tasks, or a block of a later section.
    Tasks,
    /// The state of the planner, or the end.
    Planned,
    /// Only the end.
    End,
}

fn start(path: &Path) -> Result<(BufReader<File>, Vec<u8>), SnapshotError> {
    let file = File::open(path).map_err(SnapshotError::Unreadable)?;
    let mut file = BufReader::with_capacity(BLOCK_BYTES, file);
    let mut magic = [0; MAGIC.len()];
    read(&mut file, &mut magic)?;
    if magic == *MAGIC { Ok((file, Vec::new())) } else { Err(SnapshotError::UnknownFormat) }
}

fn read_start(file: &mut impl Read, buffer: &mut Vec<u8>) -> Result<(Anchor, Outline), SnapshotError> {
    match next(file, buffer)? {
        Block::Start { anchor, outline } => Ok((anchor, outline)),
        _ => Err(SnapshotError::OutOfOrder),
    }
}

fn next<'a>(file: &mut impl Read, buffer: &'a mut Vec<u8>) -> Result<Block<'a>, SnapshotError> {
    let (mut length, mut checksum) = ([0; 4], [0; 4]);
    read(file, &mut length)?;
    read(file, &mut checksum)?;
    let length = u32::from_le_bytes(length);
    if length > BLOCK_BYTES_MAX {
        return Err(SnapshotError::BlockTooLong { length });
    }
    buffer.resize(length as usize, 0);
    read(file, buffer)?;
    if crc32fast::hash(buffer) != u32::from_le_bytes(checksum) {
        return Err(SnapshotError::ChecksumMismatch);
    }
    postcard::from_bytes(buffer).map_err(SnapshotError::InvalidBlock)
}

fn read(file: &mut impl Read, bytes: &mut [u8]) -> Result<(), SnapshotError> {
    file.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => SnapshotError::Truncated,
        _ => SnapshotError::Unreadable(error),
    })
}
