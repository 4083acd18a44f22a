//! Ranks of MPI.

use crate::say;
use mpi::{
    Threading,
    point_to_point::send_receive_into,
    topology::{Communicator, SimpleCommunicator},
};
use quarterturn::{
    core::{Error, Result},
    models::training::Ranks,
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::Arc,
};

/// MPI counts elements of a message in 32 bits.
const LONGEST: usize = 1 << 30;

/// All processes that were started together.
#[derive(Debug)]
struct World {
    rank: usize,
    size: usize,
}

impl Ranks for World {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    /// An error of MPI ends all processes, with a message of MPI's.
    fn exchange(&self, partner: usize, mine: &[u8], theirs: &mut [u8]) -> Result<()> {
        let world = SimpleCommunicator::world();
        let partner = world.process_at_rank(partner as i32);
        for piece in 0..mine.len().max(theirs.len()).div_ceil(LONGEST) {
            let of = |len: usize| (piece * LONGEST).min(len)..((piece + 1) * LONGEST).min(len);
            let (sent, received) = (of(mine.len()), of(theirs.len()));
            send_receive_into(&mine[sent], &partner, &mut theirs[received], &partner);
        }
        Ok(())
    }
}

/// Runs `program` as one of them.
pub fn run(program: impl FnOnce(Arc<dyn Ranks>) -> Result<()>) -> ExitCode {
    // Only the thread that has called this exchanges messages, while others compute.
    let Some((universe, threading)) = mpi::initialize_with_threading(Threading::Funneled) else {
        return crate::args::finish(Err(Error::Invalid("MPI was started before".into())));
    };
    let world = universe.world();
    let (rank, size) = (world.rank() as usize, world.size() as usize);
    let failed = |message: String| {
        say::error(format_args!("error: rank {rank} of {size}: {message}; all of them end"));
        world.abort(1)
    };
    if threading < Threading::Funneled {
        failed("this MPI does not allow other threads beside the one that calls it".into());
    }
    if rank > 0 {
        say::only_errors();
    }
    // Unwinding would end MPI, which waits for the other processes.
    match catch_unwind(AssertUnwindSafe(|| program(Arc::new(World { rank, size })))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => failed(error.to_string()),
        Err(_) => failed("a panic, see above".into()),
    }
}
