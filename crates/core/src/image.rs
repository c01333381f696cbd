//! The state as plain data: the content of a snapshot, and the way back from it.
//!
//! An image is one [`Outline`] and one [`AllocationImage`] for each allocation, in a fixed order, followed by the
//! images of the fleet and of the scaling state. Equal states have equal images, however they came about: the slots
//! of records are not part of an image, nor is the time of the last [`Cluster::observe`]. What follows from the
//! allocations is not written. It is derived again by the code that [`Cluster::apply`] uses.

use super::allocation::{Allocation, EndReason, Metadata, Phase, Reservation, ServerHold, State, Workers};
use super::cluster::{AllocationRecord, Cluster};
use super::event::Limits;
use super::fleet::image::FleetOutline;
use super::grace::{Grace, Graces};
use super::ids::{AllocationId, FencingToken, JobId, NodeId, RequestId, ServerInstanceId, ServerName, WorkerNumber};
use super::job::Job;
use super::node::Node;
use super::ports::Port;
use super::priority::Priority;
use super::sequence_index::LiveFilter;
use super::time::{Millis, Timestamp, TtlSeconds};
use super::units::{Resources, WorkerSize};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use thiserror::Error;

/// The state of the leases without their allocations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outline {
    limits: Limits,
    nodes: Vec<NodeOutline>,
    graces: Vec<GraceOutline>,
    next_token: FencingToken,
    next_instance: ServerInstanceId,
}

/// A node without its leases: id, capacity, and the next ports to assign.
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
    /// The job's next worker number, if the allocation is live. It also counts workers that have ended.
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

/// Why an image is rejected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidImage {
    #[error("{0:?} is not a valid name")]
    Name(String),
    #[error("the metadata of {0} is not a JSON object")]
    Metadata(AllocationId),
    #[error("{0} occurs twice")]
    Twice(AllocationId),
    /// The allocation is on a node that the outline does not have.
    #[error("{0} is on node {1}, which does not exist")]
    Node(AllocationId, NodeId),
    /// An image of an agent or a task cannot be read.
    #[error("an agent or a task cannot be read: {0}")]
    FleetUnreadable(String),
    /// An agent or a task occurs twice.
    #[error("{0} occurs twice")]
    FleetTwice(String),
    /// The image of the scaling state cannot be read.
    #[error("the scaling state cannot be read: {0}")]
    ScalingStateUnreadable(String),
    /// A task or an agent refers to an agent or a node that does not exist.
    #[error("{0} refers to an agent or a node that does not exist")]
    FleetAlone(String),
}

impl Cluster {
    /// Returns the state of the leases without the allocations.
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

    /// Returns whether both states have the same image.
    #[must_use]
    pub fn has_image_of(&self, other: &Self) -> bool {
        self.outline() == other.outline()
            && self.allocation_images().eq(other.allocation_images())
            && self.private_servers() == other.private_servers()
            && self.fleet_outline() == other.fleet_outline()
            && self.agent_images().eq(other.agent_images())
            && self.task_images().eq(other.task_images())
            && self.scaling_state == other.scaling_state
    }

    /// Returns the server instances that have, or had, one exclusive holder.
    #[must_use]
    pub fn private_servers(&self) -> BTreeSet<ServerInstanceId> {
        let records = self.records_by_token.iter(LiveFilter::ALL).map(|(_, slot)| &self.records[slot].allocation);
        let holds = records.flat_map(|allocation| &allocation.reservation.servers);
        holds.filter(|hold| hold.is_private).map(|hold| hold.instance).collect()
    }

    /// Returns the images of all allocations: the ended ones in the order in which they ended, then the live ones,
    /// oldest first.
    pub fn allocation_images(&self) -> impl Iterator<Item = AllocationImage<'_>> {
        let ended = self.ended_order.iter().copied();
        let live = self.records_by_token.iter(LiveFilter::LIVE).map(|(_, slot)| slot);
        ended.chain(live).map(|slot| {
            let AllocationRecord { allocation, job } = &self.records[slot];
            AllocationImage::of(allocation, &self.jobs[*job])
        })
    }
}

/// A cluster that is being restored from an image.
#[derive(Debug)]
pub struct Restoration {
    cluster: Cluster,
    /// Set at the end, since reserving a port changes the next one.
    next_ports: Vec<(NodeId, (u16, u16))>,
    private_servers: BTreeSet<ServerInstanceId>,
}

impl Restoration {
    /// Starts with the outline.
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

    /// Sets which server instances have one exclusive holder, as returned by [`Cluster::private_servers`]. To be
    /// called before the allocations are added.
    pub fn add_private_servers(&mut self, instances: impl IntoIterator<Item = ServerInstanceId>) {
        self.private_servers.extend(instances);
    }

    /// Adds an allocation, in the order of [`Cluster::allocation_images`].
    ///
    /// # Errors
    /// [`InvalidImage`] if it does not fit the rest. The restoration must not be continued then.
    ///
    /// # Panics
    /// If it holds something that another allocation holds, which no image of a state does.
    pub fn add(&mut self, image: &AllocationImage<'_>) -> Result<(), InvalidImage> {
        let cluster = &mut self.cluster;
        let allocation = image.allocation(cluster, &self.private_servers)?;
        let reservation = Arc::clone(&allocation.reservation);
        let (id, token, state) = (reservation.allocation, reservation.fencing_token, allocation.state());
        if cluster.records.find(&id).is_some() {
            return Err(InvalidImage::Twice(id));
        }
        let frees_request_id = allocation.frees_request_id();
        if state.is_live() {
            let node = cluster.nodes.get_mut(&reservation.node);
            node.ok_or_else(|| InvalidImage::Node(id, reservation.node.clone()))?.reserve(&reservation);
        }
        let job = cluster.jobs.find_or_insert(&reservation.job, || Job::new(reservation.job.clone()));
        let slot = cluster.records.insert(AllocationRecord { allocation, job });
        cluster.jobs[job].reserve(&reservation, slot);
        cluster.records_by_token.insert(token, slot);
        if let Some(request_id) = reservation.request_id.as_ref().filter(|_| !frees_request_id) {
            cluster.by_request.insert(request_id.clone(), slot);
        }
        if state.is_live() {
            cluster.jobs[job].next_worker = WorkerNumber(image.next_worker);
            cluster.schedule(slot);
        } else {
            cluster.jobs[job].end();
            cluster.records_by_token.end(token);
            cluster.ended_order.push_back(slot);
            cluster.failed += u64::from(state == State::Failed);
        }
        Ok(())
    }

    /// Adds the outline of the fleet, after all allocations.
    pub fn add_fleet(&mut self, outline: FleetOutline) {
        self.cluster.restore_fleet(outline);
    }

    /// Adds an agent, in the order of [`Cluster::agent_images`].
    ///
    /// # Errors
    /// [`InvalidImage`] if it does not fit the rest. The restoration must not be continued then.
    pub fn add_agent(&mut self, image: &str) -> Result<(), InvalidImage> {
        self.cluster.restore_agent(image)
    }

    /// Adds a task, in the order of [`Cluster::task_images`], after all agents.
    ///
    /// # Errors
    /// [`InvalidImage`] if it does not fit the rest. The restoration must not be continued then.
    pub fn add_task(&mut self, image: &str) -> Result<(), InvalidImage> {
        self.cluster.restore_task(image)
    }

    /// Adds the scaling state, from [`Cluster::scaling_state_image`].
    ///
    /// # Errors
    /// [`InvalidImage`] if it is not sound. The restoration must not be continued then.
    pub fn add_scaling_state(&mut self, image: &str) -> Result<(), InvalidImage> {
        self.cluster.restore_scaling_state(image)
    }

    /// Returns the cluster, once everything was added.
    #[must_use]
    pub fn finish(mut self) -> Cluster {
        for (id, next) in self.next_ports {
            if let Some(node) = self.cluster.nodes.get_mut(&id) {
                node.ports.set_next(next);
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

    /// Estimates the number of bytes that the written image takes.
    #[must_use]
    pub fn estimated_bytes(&self) -> usize {
        const FIXED: usize = 64;
        let texts = self.job.len() + self.node.len() + self.request_id.map_or(0, str::len) + self.metadata.len();
        let servers: usize = self.servers.iter().map(|server| server.name.len() + 4).sum();
        FIXED + texts + servers + 3 * self.worker_ports.len()
    }

    /// Returns the allocation itself. It shares the names that the cluster already has.
    fn allocation(&self, cluster: &Cluster, private: &BTreeSet<ServerInstanceId>) -> Result<Allocation, InvalidImage> {
        let id = AllocationId::from_bits(self.id);
        let job = name(self.job, JobId::new)?;
        let job = cluster.job(&job).map_or(job, |known| known.id.clone());
        let node_id = name(self.node, NodeId::new)?;
        let node = cluster.nodes.get_key_value(&node_id);
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
            servers: servers.collect::<Result<_, InvalidImage>>()?,
            node: node.map_or(node_id, |(known, _)| known.clone()),
            ttl_seconds: self.reserved_ttl_seconds,
            activate_by: Timestamp::from_millis(self.activate_by),
            request_id: self.request_id.map(|id| name(id, RequestId::new)).transpose()?,
            metadata: Metadata::from_json(self.metadata).ok_or(InvalidImage::Metadata(id))?,
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

fn name<T, E>(text: &str, read: impl FnOnce(&str) -> Result<T, E>) -> Result<T, InvalidImage> {
    read(text).map_err(|_| InvalidImage::Name(text.to_owned()))
}
