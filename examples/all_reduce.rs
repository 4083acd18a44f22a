//! What the fixed order of a sum over processes costs: Quarterturn's tree beside MPI's own sum, whose order is MPI's choice.
//!
//! ```sh
//! cargo build --release --features mpi --example all_reduce && mpirun -n 2 target/release/examples/all_reduce
//! ```

use clap::Parser;
use mpi::{collective::SystemOperation, topology::SimpleCommunicator, traits::CommunicatorCollectives};
use quarterturn::{
    core::{Error, Result, Stream},
    models::training::{Ranks, add_over_ranks},
};
use quarterturn_examples::{ranks, say};
use std::{process::ExitCode, sync::Arc, time::Instant};

/// Time the sum of a gradient over processes, in Quarterturn's fixed order and in MPI's
#[derive(Parser)]
struct Args {
    /// Numbers to add [default: the weights of a p4-ResNet-18 for ImageNet]
    #[arg(long, value_name = "N", default_value_t = 11_400_000, value_parser = clap::value_parser!(u32).range(1..))]
    values: u32,
    /// Times that each is done; the best counts
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// Of the numbers
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    ranks::run(|ranks| run(&args, ranks))
}

fn run(args: &Args, ranks: Arc<dyn Ranks>) -> Result<()> {
    if ranks.size() < 2 {
        return Err(Error::Invalid("start it with mpirun -n 2 or more: alone there is nothing to add".into()));
    }
    let stream = Stream::new(args.seed, ranks.rank() as u32, 0);
    let values: Vec<f32> = (0..u64::from(args.values)).map(|i| stream.normal(i) as f32).collect();
    let (mut tree, mut theirs) = (values.clone(), vec![0.0f32; values.len()]);
    let world = SimpleCommunicator::world();
    let [mut of_tree, mut of_mpi] = [f64::INFINITY; 2];
    for _ in 0..args.repeats {
        tree.copy_from_slice(&values);
        let began = Instant::now();
        add_over_ranks(&*ranks, &mut tree)?;
        of_tree = of_tree.min(began.elapsed().as_secs_f64());
        let began = Instant::now();
        world.all_reduce_into(&values[..], &mut theirs[..], SystemOperation::sum());
        of_mpi = of_mpi.min(began.elapsed().as_secs_f64());
    }
    let differ = tree.iter().zip(&theirs).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    let sent = 2.0 * (ranks.size() - 1) as f64 / ranks.size() as f64 * 4.0 * values.len() as f64;
    say::result(format_args!(
        "{} processes, {} numbers: fixed tree {:.1} ms ({:.2} GB/s sent by each), MPI_Allreduce {:.1} ms; {differ} sums differ",
        ranks.size(),
        values.len(),
        1e3 * of_tree,
        sent / of_tree / 1e9,
        1e3 * of_mpi,
    ));
    Ok(())
}
