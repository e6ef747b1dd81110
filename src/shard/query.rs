//! Questions that any core can be asked and only a metric's owner can answer.

use crate::metric::name::{canonical, file_path};
use crate::metric::point::Point;
use crate::metric::series::Aggregation;
use crate::shard::Shard;
use crate::shard::route::{ShardId, owner};
use crate::stats::{Counters, Gauges};

/// Tells the answers of a core's open questions apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// What one core asks another.
#[derive(Debug)]
pub enum Question {
    /// The points not in their file yet, for each of these metrics.
    Points(Ticket, Vec<Vec<u8>>),
    /// The aggregation method of a metric's file; changed to another one if given.
    Metadata(Ticket, Vec<u8>, Option<Aggregation>),
    /// What the shard has counted and holds.
    Stats(Ticket),
    /// Take these points of the node's own metrics, also when full: a full node must be seen.
    Own(Ticket, Vec<u8>),
}

/// What the owner says.
#[derive(Debug)]
pub enum Answer {
    /// Points in ascending order, for each metric asked for, in that order.
    Points(Ticket, Vec<Vec<Point>>),
    /// The method before the change, or why there is none.
    Metadata(Ticket, Result<Aggregation, String>),
    /// Counters and gauges.
    Stats(Ticket, Box<(Counters, Gauges)>),
    /// The points were taken.
    Own(Ticket),
}

impl Answer {
    /// The question's ticket.
    pub fn ticket(&self) -> Ticket {
        match self {
            Answer::Points(ticket, _)
            | Answer::Metadata(ticket, _)
            | Answer::Stats(ticket, _)
            | Answer::Own(ticket) => *ticket,
        }
    }
}

impl Shard {
    /// The canonical spelling of a metric that was asked for and its owner; `None` for a name
    /// that cannot exist.
    pub fn locate(&mut self, name: &[u8]) -> Option<(Vec<u8>, ShardId)> {
        let mut scratch = std::mem::take(&mut self.name_scratch);
        let located = canonical(name, &mut scratch)
            .and_then(|name| self.check_path(name))
            .ok()
            .map(|name| (name.to_vec(), owner(name, self.options.shard_count)));
        self.name_scratch = scratch;
        located
    }

    /// All points of a metric of this shard that are not in its file, ascending.
    pub fn points_of(&self, name: &[u8]) -> Vec<Point> {
        let mut points = Vec::new();
        if let Some(metric) = self.cache.lookup(name) {
            self.cache.read(metric, &mut points);
        }
        points
    }

    /// The path of a metric's file, ending in NUL.
    pub fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = Vec::new();
        file_path(name, self.options.hash_tagged, &mut path).expect("a canonical name has a path");
        path.push(0);
        path
    }

    /// The header of a metric's file has changed: what is remembered of it is void.
    pub fn header_changed(&mut self, name: &[u8]) {
        if let Some(metric) = self.cache.lookup(name) {
            self.no_longer_new(metric);
            self.files.header_changed(metric, self.cache.is_writing(metric));
        }
    }
}
