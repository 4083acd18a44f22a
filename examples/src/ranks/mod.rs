//! The processes that train one network together: one, or those that `mpirun` or `srun` has started.

#[cfg(feature = "mpi")]
mod mpi;

use quarterturn::{
    core::Result,
    models::training::{Alone, Ranks},
};
use std::{env, process::ExitCode, sync::Arc};

/// What starters of processes say: Open MPI, MPICH and what goes by its rules, and Slurm.
const SIZE: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];
const LOCAL_RANK: [&str; 3] = ["OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"];

/// Runs `program` as one of the processes that were started together, and says what goes wrong. A process that fails ends all of them:
/// the others would wait for it for ever. Only rank 0 says how it goes.
pub fn run(program: impl FnOnce(Arc<dyn Ranks>) -> Result<()>) -> ExitCode {
    match number(SIZE) {
        None | Some(1) => super::args::finish(program(Arc::new(Alone))),
        Some(size) => together(size, program),
    }
}

#[cfg(feature = "mpi")]
fn together(_: usize, program: impl FnOnce(Arc<dyn Ranks>) -> Result<()>) -> ExitCode {
    mpi::run(program)
}

#[cfg(not(feature = "mpi"))]
fn together(size: usize, _: impl FnOnce(Arc<dyn Ranks>) -> Result<()>) -> ExitCode {
    let error = super::args::without("mpi", &format!("{size} processes that train together"));
    super::args::finish(Err(error))
}

/// The number of this process among those on its machine, from 0: which of the machine's GPUs it takes.
pub fn local_rank() -> usize {
    number(LOCAL_RANK).unwrap_or(0)
}

fn number(names: [&str; 3]) -> Option<usize> {
    names.iter().find_map(|name| env::var(name).ok()?.parse().ok())
}
