//! The crew: the agents as whoever runs them knows them.

use cortex_core::ids::{AgentId, FencingToken, TaskId};
use cortex_core::time::Millis;
use std::collections::VecDeque;

/// The task in an agent's hands.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) task: TaskId,
    pub(super) fencing_token: FencingToken,
    /// How long it waited.
    pub(super) waited: Millis,
}

/// What an agent is at.
#[derive(Clone, Debug)]
enum Doing {
    Nothing,
    Work(Held),
    /// It went silent, and the books have not noticed yet.
    Silence,
}

/// An agent.
#[derive(Clone, Debug)]
struct Member {
    id: AgentId,
    doing: Doing,
    /// Whether it leaves once it has done what it holds.
    leaves: bool,
}

/// An agent's place in the crew.
pub(super) type Place = usize;

/// The agents of one simulation. A place is used again, under another name.
#[derive(Clone, Debug, Default)]
pub(super) struct Crew {
    members: Vec<Option<Member>>,
    free: Vec<Place>,
    /// Those without work, the longest so first.
    idle: VecDeque<Place>,
    named: u64,
    live: u64,
    leaving: u64,
    silent: Vec<Place>,
}

impl Crew {
    /// A name for the next agent.
    pub(super) fn next_name(&mut self) -> AgentId {
        self.named += 1;
        let text = format!("agent-{:06}", self.named);
        AgentId::new(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// Takes in an agent, who has no work yet.
    pub(super) fn join(&mut self, id: AgentId) {
        let member = Some(Member { id, doing: Doing::Nothing, leaves: false });
        let place = self.free.pop().unwrap_or(self.members.len());
        if place == self.members.len() {
            self.members.push(member);
        } else {
            self.members[place] = member;
        }
        self.live += 1;
        self.idle.push_back(place);
    }

    /// How many there are that are alive, those included that are leaving.
    pub(super) const fn live(&self) -> u64 {
        self.live
    }

    /// How many of them are leaving.
    pub(super) const fn leaving(&self) -> u64 {
        self.leaving
    }

    /// Whether the books have agents that are silent.
    pub(super) const fn has_silent(&self) -> bool {
        !self.silent.is_empty()
    }

    /// How many are at work.
    pub(super) fn at_work(&self) -> u64 {
        self.live - self.idle.len() as u64
    }

    /// The names of those that are alive.
    pub(super) fn alive(&self) -> impl Iterator<Item = &AgentId> {
        let alive = self.members.iter().flatten().filter(|member| !matches!(member.doing, Doing::Silence));
        alive.map(|member| &member.id)
    }

    /// The agent that has been without work for the longest.
    pub(super) fn first_idle(&self) -> Option<(Place, &AgentId)> {
        let place = *self.idle.front()?;
        Some((place, &self.members[place].as_ref()?.id))
    }

    /// The longest idle one sets to work.
    pub(super) fn set_to_work(&mut self, held: Held) {
        if let Some(place) = self.idle.pop_front() {
            self.go_on(place, held);
        }
    }

    /// One that is not idle goes on with another task.
    pub(super) fn go_on(&mut self, place: Place, held: Held) {
        if let Some(member) = &mut self.members[place] {
            member.doing = Doing::Work(held);
        }
    }

    /// What an agent had in its hands that is done now, its name, and whether it leaves; nothing if it did not live to see it,
    /// or holds another task than `token` by now.
    pub(super) fn finish(&mut self, place: Place, token: FencingToken) -> Option<(Held, AgentId, bool)> {
        let member = self.members.get_mut(place)?.as_mut()?;
        if !matches!(&member.doing, Doing::Work(held) if held.fencing_token == token) {
            return None;
        }
        let Doing::Work(held) = std::mem::replace(&mut member.doing, Doing::Nothing) else { return None };
        Some((held, member.id.clone(), member.leaves))
    }

    /// One that has finished has nothing more to do.
    pub(super) fn rest(&mut self, place: Place) {
        self.idle.push_back(place);
    }

    /// One that has finished is gone.
    pub(super) fn leave(&mut self, place: Place) {
        if let Some(member) = self.members[place].take() {
            self.live -= 1;
            self.leaving -= u64::from(member.leaves);
            self.free.push(place);
        }
    }

    /// Takes an agent without work out, the one that has been so for the longest.
    pub(super) fn send_away(&mut self) -> Option<AgentId> {
        let place = self.idle.pop_front()?;
        let id = self.members[place].as_ref()?.id.clone();
        self.leave(place);
        Some(id)
    }

    /// Tells up to so many at work to leave when they are done, those in the last places first.
    pub(super) fn let_finish(&mut self, agents: u64) {
        let at_work = |member: &&mut Member| matches!(member.doing, Doing::Work(_)) && !member.leaves;
        for member in self.members.iter_mut().rev().flatten().filter(at_work).take(as_count(agents)) {
            member.leaves = true;
            self.leaving += 1;
        }
    }

    /// Tells up to so many of those that are leaving to stay.
    pub(super) fn keep(&mut self, agents: u64) {
        for member in self.members.iter_mut().flatten().filter(|member| member.leaves).take(as_count(agents)) {
            member.leaves = false;
            self.leaving -= 1;
        }
    }

    /// Lets up to so many go silent, with all that they hold: those in the first places. Tells how many.
    pub(super) fn vanish(&mut self, agents: u64) -> u64 {
        let mut gone = 0;
        for (place, member) in self.members.iter_mut().enumerate() {
            let Some(member) = member.as_mut().filter(|member| !matches!(member.doing, Doing::Silence)) else {
                continue;
            };
            if gone == agents {
                break;
            }
            if matches!(member.doing, Doing::Nothing) {
                self.idle.retain(|idle| *idle != place);
            }
            self.leaving -= u64::from(std::mem::take(&mut member.leaves));
            member.doing = Doing::Silence;
            self.silent.push(place);
            gone += 1;
        }
        self.live -= gone;
        gone
    }

    /// The books have noticed that an agent is gone.
    pub(super) fn forget(&mut self, id: &AgentId) {
        let members = &mut self.members;
        let is_it = |place: &Place| members[*place].as_ref().is_some_and(|member| member.id == *id);
        if let Some(found) = self.silent.iter().position(is_it) {
            let place = self.silent.swap_remove(found);
            members[place] = None;
            self.free.push(place);
        }
    }
}

fn as_count(agents: u64) -> usize {
    usize::try_from(agents).unwrap_or(usize::MAX)
}
