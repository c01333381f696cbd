//! The books as plain data: what a snapshot holds, and how books are made of it again.
//!
//! An image is one [`Outline`] and one [`AllocationImage`] for each allocation, in an order of their own. Equal books
//! have equal images, however they came about: the slots of records are not part of it, nor how far
//! [`Cluster::observe`] has looked. What follows from the allocations is not written but derived again by the same
//! code that [`Cluster::apply`] uses.

use super::ages::Which;
use super::allocation::{Allocation, EndReason, Metadata, Phase, Reservation, ServerHold, State, Workers};
use super::cluster::{Cluster, Record};
use super::event::Limits;
use super::fleet::image::FleetOutline;
use super::grace::{Grace, Graces};
use super::ids::{AllocationId, FencingToken, JobId, NodeId, RequestId, ServerInstanceId, ServerName, WorkerNumber};
use super::job::Job;
use super::node::Node;
use super::ports::Port;
use super::priority::Priority;
use super::time::{Millis, Timestamp, TtlSeconds};
use super::units::{Resources, WorkerSize};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use thiserror::Error;

/// The books without their allocations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outline {
    limits: Limits,
    nodes: Vec<NodeOutline>,
    graces: Vec<GraceOutline>,
    next_token: FencingToken,
    next_instance: ServerInstanceId,
}

/// A node without its leases: name, capacity, and the ports to go on from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct NodeOutline {
    id: NodeId,
    capacity: Resources,
    next_ports: (u16, u16),
}

/// A grace in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct GraceOutline {
    since: i64,
    until: i64,
    spread: u64,
}

/// One allocation, as plain numbers and texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocationImage<'a> {
    id: u64,
    fencing_token: u64,
    job: &'a str,
    /// Of the job, if the allocation is live: it goes on counting from its workers that are gone, too.
    next_worker: u64,
    priority: Priority,
    node: &'a str,
    first_worker: u64,
    worker_ports: Vec<Port>,
    worker_size: WorkerSize,
    servers: Vec<ServerImage<'a>>,
    reserved_ttl_seconds: TtlSeconds,
    activate_by: i64,
    request_id: Option<&'a str>,
    metadata: &'a str,
    created_at: i64,
    ttl_seconds: TtlSeconds,
    phase: PhaseImage<'a>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ServerImage<'a> {
    name: &'a str,
    instance: ServerInstanceId,
    port: Port,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum PhaseImage<'a> {
    Pending,
    Active { activated_at: i64, runs_from: i64 },
    Releasing { activated_at: Option<i64>, reason: EndReason },
    Released { activated_at: Option<i64>, reason: EndReason, released_at: i64 },
    Failed { error: &'a str, failed_at: i64 },
}

/// Why something is no image of books.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotAnImage {
    /// A text that is no name.
    #[error("{0:?} is no name")]
    Name(String),
    /// Metadata that is no JSON object.
    #[error("the metadata of {0} is no JSON object")]
    Metadata(AllocationId),
    /// An allocation that stands there twice.
    #[error("{0} stands in it twice")]
    Twice(AllocationId),
    /// An allocation on a node that the outline does not have.
    #[error("{0} is on node {1}, which does not exist")]
    Node(AllocationId, NodeId),
    /// An agent or a task that cannot be read.
    #[error("an agent or a task of it cannot be read: {0}")]
    FleetUnreadable(String),
    /// An agent or a task that stands there twice.
    #[error("{0} stands in it twice")]
    FleetTwice(String),
    /// What is there for the planner cannot be read.
    #[error("what it has for the planner cannot be read: {0}")]
    PlannedUnreadable(String),
    /// A task in the hands of an agent, or an agent on a node, that is not there.
    #[error("{0} belongs to what is not there")]
    FleetAlone(String),
}

impl Cluster {
    /// The books without their allocations.
    #[must_use]
    pub fn outline(&self) -> Outline {
        let node = |(id, node): (&NodeId, &Node)| NodeOutline {
            id: id.clone(),
            capacity: node.capacity,
            next_ports: node.ports.next(),
        };
        Outline {
            limits: self.limits,
            nodes: self.nodes.iter().map(node).collect(),
            graces: self.graces.iter().map(GraceOutline::of).collect(),
            next_token: self.next_token,
            next_instance: self.next_instance,
        }
    }

    /// Whether the other books have the same image.
    #[must_use]
    pub fn has_image_of(&self, other: &Self) -> bool {
        self.outline() == other.outline()
            && self.allocation_images().eq(other.allocation_images())
            && self.private_servers() == other.private_servers()
            && self.fleet_outline() == other.fleet_outline()
            && self.agent_images().eq(other.agent_images())
            && self.task_images().eq(other.task_images())
            && self.planned == other.planned
    }

    /// The runs of servers that have, or had, one holder alone.
    #[must_use]
    pub fn private_servers(&self) -> BTreeSet<ServerInstanceId> {
        let records = self.ages.iter(Which::ALL).map(|(_, slot)| &self.records[slot].allocation);
        let holds = records.flat_map(|allocation| &allocation.reservation.servers);
        holds.filter(|hold| hold.is_private).map(|hold| hold.instance).collect()
    }

    /// The allocations: those that have ended in the order in which they did, then the live ones, oldest first.
    pub fn allocation_images(&self) -> impl Iterator<Item = AllocationImage<'_>> {
        let ended = self.ended_order.iter().copied();
        let live = self.ages.iter(Which::LIVE).map(|(_, slot)| slot);
        ended.chain(live).map(|slot| {
            let Record { allocation, job } = &self.records[slot];
            AllocationImage::of(allocation, &self.jobs[*job])
        })
    }
}

/// Books in the making, from an image.
#[derive(Debug)]
pub struct Restoration {
    cluster: Cluster,
    /// Set last, since taking a port moves it on.
    next_ports: Vec<(NodeId, (u16, u16))>,
    private_servers: BTreeSet<ServerInstanceId>,
}

impl Restoration {
    /// Begins with the outline.
    #[must_use]
    pub fn new(outline: Outline) -> Self {
        let Outline { limits, nodes, graces, next_token, next_instance } = outline;
        let next_ports = nodes.iter().map(|node| (node.id.clone(), node.next_ports)).collect();
        let nodes =
            nodes.into_iter().map(|node| (node.id, Node { capacity: node.capacity, ..Node::default() })).collect();
        let cluster = Cluster {
            limits,
            nodes,
            graces: Graces::new(graces.into_iter().map(GraceOutline::grace).collect()),
            next_token,
            next_instance,
            ..Cluster::default()
        };
        Self { cluster, next_ports, private_servers: BTreeSet::new() }
    }

    /// Says which runs of servers have one holder alone, before the allocations are added; those of
    /// [`Cluster::private_servers`].
    pub fn add_private_servers(&mut self, instances: impl IntoIterator<Item = ServerInstanceId>) {
        self.private_servers.extend(instances);
    }

    /// Adds an allocation; they must come in the order of [`Cluster::allocation_images`].
    ///
    /// # Errors
    /// [`NotAnImage`], if it cannot be one of these books; then they are of no use any more.
    ///
    /// # Panics
    /// If it holds what another holds: no books have such an image.
    pub fn add(&mut self, image: &AllocationImage<'_>) -> Result<(), NotAnImage> {
        let cluster = &mut self.cluster;
        let allocation = image.allocation(cluster, &self.private_servers)?;
        let reservation = Arc::clone(&allocation.reservation);
        let (id, token, state) = (reservation.allocation, reservation.fencing_token, allocation.state());
        if cluster.records.find(&id).is_some() {
            return Err(NotAnImage::Twice(id));
        }
        let is_asked_anew = allocation.is_asked_anew();
        if state.is_live() {
            let node = cluster.nodes.get_mut(&reservation.node);
            node.ok_or_else(|| NotAnImage::Node(id, reservation.node.clone()))?.take(&reservation);
        }
        let job = cluster.jobs.find_or_insert(&reservation.job, || Job::new(reservation.job.clone()));
        let slot = cluster.records.insert(Record { allocation, job });
        cluster.jobs[job].reserve(&reservation, slot);
        cluster.ages.insert(token, slot);
        if let Some(request_id) = reservation.request_id.as_ref().filter(|_| !is_asked_anew) {
            cluster.by_request.insert(request_id.clone(), slot);
        }
        if state.is_live() {
            cluster.jobs[job].next_worker = WorkerNumber(image.next_worker);
            cluster.schedule(slot);
        } else {
            cluster.jobs[job].end();
            cluster.ages.end(token);
            cluster.ended_order.push_back(slot);
            cluster.failed += u64::from(state == State::Failed);
        }
        Ok(())
    }

    /// Begins the fleet with its outline, once every allocation was added.
    pub fn add_fleet(&mut self, outline: FleetOutline) {
        self.cluster.restore_fleet(outline);
    }

    /// Adds an agent; they must come in the order of [`Cluster::agent_images`].
    ///
    /// # Errors
    /// [`NotAnImage`], if it cannot be one of these books; then they are of no use any more.
    pub fn add_agent(&mut self, image: &str) -> Result<(), NotAnImage> {
        self.cluster.restore_agent(image)
    }

    /// Adds a task; they must come in the order of [`Cluster::task_images`], after all agents.
    ///
    /// # Errors
    /// [`NotAnImage`], if it cannot be one of these books; then they are of no use any more.
    pub fn add_task(&mut self, image: &str) -> Result<(), NotAnImage> {
        self.cluster.restore_task(image)
    }

    /// Adds what there is for the planner, from [`Cluster::planned_image`].
    ///
    /// # Errors
    /// [`NotAnImage`], if it cannot be part of any books; then they are of no use any more.
    pub fn add_planned(&mut self, image: &str) -> Result<(), NotAnImage> {
        self.cluster.restore_planned(image)
    }

    /// The books, once everything was added.
    #[must_use]
    pub fn finish(mut self) -> Cluster {
        for (id, next) in self.next_ports {
            if let Some(node) = self.cluster.nodes.get_mut(&id) {
                node.ports.go_on_from(next);
            }
        }
        self.cluster
    }
}

impl GraceOutline {
    const fn of(grace: Grace) -> Self {
        Self { since: grace.since.as_millis(), until: grace.until.as_millis(), spread: grace.spread.0 }
    }

    const fn grace(self) -> Grace {
        Grace {
            since: Timestamp::from_millis(self.since),
            until: Timestamp::from_millis(self.until),
            spread: Millis(self.spread),
        }
    }
}

impl<'a> AllocationImage<'a> {
    fn of(allocation: &'a Allocation, job: &Job) -> Self {
        let reservation = &*allocation.reservation;
        let server =
            |hold: &'a ServerHold| ServerImage { name: hold.name.as_str(), instance: hold.instance, port: hold.port };
        Self {
            id: reservation.allocation.as_bits(),
            fencing_token: reservation.fencing_token.as_u64(),
            job: reservation.job.as_str(),
            next_worker: if allocation.state().is_live() { job.next_worker.0 } else { 0 },
            priority: reservation.priority,
            node: reservation.node.as_str(),
            first_worker: reservation.workers.first.0,
            worker_ports: reservation.workers.ports.to_vec(),
            worker_size: reservation.workers.size,
            servers: reservation.servers.iter().map(server).collect(),
            reserved_ttl_seconds: reservation.ttl_seconds,
            activate_by: reservation.activate_by.as_millis(),
            request_id: reservation.request_id.as_ref().map(RequestId::as_str),
            metadata: reservation.metadata.as_json(),
            created_at: allocation.created_at.as_millis(),
            ttl_seconds: allocation.ttl_seconds,
            phase: PhaseImage::of(&allocation.phase),
        }
    }

    /// About how many bytes it takes when it is written.
    #[must_use]
    pub fn bytes_about(&self) -> usize {
        const FIXED: usize = 64;
        let texts = self.job.len() + self.node.len() + self.request_id.map_or(0, str::len) + self.metadata.len();
        let servers: usize = self.servers.iter().map(|server| server.name.len() + 4).sum();
        FIXED + texts + servers + 3 * self.worker_ports.len()
    }

    /// The allocation itself. Names that the books have are shared with them.
    fn allocation(&self, books: &Cluster, private: &BTreeSet<ServerInstanceId>) -> Result<Allocation, NotAnImage> {
        let id = AllocationId::from_draw(self.id);
        let job = name(self.job, JobId::new)?;
        let job = books.job(&job).map_or(job, |known| known.id.clone());
        let node_id = name(self.node, NodeId::new)?;
        let node = books.nodes.get_key_value(&node_id);
        let servers = self.servers.iter().map(|server| {
            let running = node.and_then(|(_, node)| node.servers.at(server.port));
            let name = match running.filter(|running| running.name.as_str() == server.name) {
                Some(running) => running.name.clone(),
                None => name(server.name, ServerName::new)?,
            };
            let is_private = private.contains(&server.instance);
            Ok(ServerHold { name, instance: server.instance, port: server.port, is_private })
        });
        let reservation = Reservation {
            allocation: id,
            fencing_token: FencingToken::new(self.fencing_token),
            job,
            priority: self.priority,
            workers: Workers {
                first: WorkerNumber(self.first_worker),
                ports: self.worker_ports.clone().into_boxed_slice(),
                size: self.worker_size,
            },
            servers: servers.collect::<Result<_, NotAnImage>>()?,
            node: node.map_or(node_id, |(known, _)| known.clone()),
            ttl_seconds: self.reserved_ttl_seconds,
            activate_by: Timestamp::from_millis(self.activate_by),
            request_id: self.request_id.map(|id| name(id, RequestId::new)).transpose()?,
            metadata: Metadata::from_json(self.metadata).ok_or(NotAnImage::Metadata(id))?,
        };
        Ok(Allocation {
            reservation: Arc::new(reservation),
            created_at: Timestamp::from_millis(self.created_at),
            ttl_seconds: self.ttl_seconds,
            phase: self.phase.phase(),
        })
    }
}

impl<'a> PhaseImage<'a> {
    fn of(phase: &'a Phase) -> Self {
        let millis = |moment: &Timestamp| moment.as_millis();
        match phase {
            Phase::Pending => Self::Pending,
            Phase::Active { activated_at, runs_from } => {
                Self::Active { activated_at: millis(activated_at), runs_from: millis(runs_from) }
            }
            Phase::Releasing { activated_at, reason } => {
                Self::Releasing { activated_at: activated_at.as_ref().map(millis), reason: *reason }
            }
            Phase::Released { activated_at, reason, released_at } => Self::Released {
                activated_at: activated_at.as_ref().map(millis),
                reason: *reason,
                released_at: millis(released_at),
            },
            Phase::Failed { error, failed_at } => Self::Failed { error, failed_at: millis(failed_at) },
        }
    }

    fn phase(&self) -> Phase {
        let moment = Timestamp::from_millis;
        match *self {
            Self::Pending => Phase::Pending,
            Self::Active { activated_at, runs_from } => {
                Phase::Active { activated_at: moment(activated_at), runs_from: moment(runs_from) }
            }
            Self::Releasing { activated_at, reason } => {
                Phase::Releasing { activated_at: activated_at.map(moment), reason }
            }
            Self::Released { activated_at, reason, released_at } => {
                Phase::Released { activated_at: activated_at.map(moment), reason, released_at: moment(released_at) }
            }
            Self::Failed { error, failed_at } => {
                Phase::Failed { error: Arc::from(error), failed_at: moment(failed_at) }
            }
        }
    }
}

fn name<T, E>(text: &str, read: impl FnOnce(&str) -> Result<T, E>) -> Result<T, NotAnImage> {
    read(text).map_err(|_| NotAnImage::Name(text.to_owned()))
}
