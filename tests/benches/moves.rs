//! Moves of a site while people use it: how long its requests are held, and whether anybody loses
//! anything. Over the real platform: `ta3lem up`, writers and readers over HTTPS through both
//! regions' routers. Run by hand, after `cargo build --release --workspace --bins`:
//!
//! ```text
//! cargo bench -p tests --bench moves                 ten times there and back
//! cargo bench -p tests --bench moves -- 100          a hundred times
//! cargo bench -p tests --bench moves -- 100 rtt      with a long way between the clusters
//! cargo bench -p tests --bench moves -- load         with 200 writes and 2,000 pages in a second, if
//!                                                    the machine can
//! cargo bench -p tests --bench moves -- size         whether a big site is held for longer, and how
//!                                                    long dump and restore would take
//! cargo bench -p tests --bench moves -- size 10      with 10 GB instead of 1
//! cargo bench -p tests --bench moves -- neighbour    what a copy does to another site's requests
//! cargo bench -p tests --bench moves -- restore      sites put back, on a cluster with 50 others
//! ```

mod moves {
    pub mod delay;
    pub mod figures;
    pub mod ledger;
    pub mod platform;
    pub mod restores;
}

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use moves::{
    delay,
    figures::{line, median, p99},
    ledger,
    platform::{Moved, Platform},
    restores,
};
use provisioner::operations::move_site::Pace;
use tests::way::Way;

/// Between the two regions, there and back.
const ROUND_TRIP: Duration = Duration::from_millis(80);
/// Moves there and back unless another number is said.
const ROUNDS: u64 = 10;
/// Every so many rounds the site goes with a copy of everything; in the others it returns to where it
/// was, there as well as back, which is the same switch without the time of the copy.
const COPIES: u64 = 10;
/// Writers and readers, each with a pause of 25 ms between two requests.
const FEW: (usize, usize) = (4, 2);
const MANY: (usize, usize) = (8, 56);
/// Bytes of the small and of the big site's rows.
const SMALL: u64 = 35_000_000;
const BIG: u64 = 1_000_000_000;
/// Moves of each of them.
const OF_EACH_SIZE: usize = 5;
/// Other sites on the cluster of a site that is put back.
const OTHERS: u64 = 50;
/// Copies next to a neighbour.
const NEIGHBOURS_COPIES: u64 = 3;
/// Without a copy, before each of them.
const CALM: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    let (mut number, mut long, mut kind, mut people) = (None, false, "rounds", FEW);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    for argument in &arguments {
        match argument.as_str() {
            // Cargo says this to every benchmark.
            "--bench" => {}
            "rtt" => long = true,
            "load" => people = MANY,
            "size" => kind = "size",
            "neighbour" => kind = "neighbour",
            "restore" => kind = "restore",
            text => number = Some(text.parse().with_context(|| format!("'{text}' is nothing"))?),
        }
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let platform = Platform::start()?;
    runtime.block_on(async {
        // Whatever comes of it, whether the long way was taken is told.
        let mut told = Told(Vec::new());
        if long {
            told.0 = delay::lengthen(&platform.stack, ROUND_TRIP).await?;
            println!(
                "the clusters' servers reach each other in {} ms there and back: the stream of a \
                 move, its copy and its acknowledgements. Not delayed: the provisioner's and the \
                 instances' way to the clusters, the routers' to each other, the object stores.",
                ROUND_TRIP.as_millis()
            );
        }
        match kind {
            "size" => sizes(&platform, BIG * number.unwrap_or(1)).await,
            "restore" => {
                let sizes = [("small", SMALL), ("big", BIG)];
                restores::measure(&platform, number.unwrap_or(OTHERS), &sizes).await
            }
            "neighbour" => neighbour(&platform, number.unwrap_or(NEIGHBOURS_COPIES)).await,
            _ => there_and_back(&platform, number.unwrap_or(ROUNDS), people).await,
        }
    })
}

/// Says at the end how many connections took the long way.
struct Told(Vec<Way>);

impl Drop for Told {
    fn drop(&mut self) {
        let taken: usize = self.0.iter().map(Way::taken).sum();
        if !self.0.is_empty() {
            println!("connections between the clusters that took the long way: {taken}");
        }
    }
}

/// Moves there and back under load.
async fn there_and_back(
    platform: &Platform,
    rounds: u64,
    (writers, readers): (usize, usize),
) -> Result<()> {
    const SLUG: &str = "mover";
    platform.create(SLUG, writers).await?;
    let load = ledger::begin(platform, SLUG, writers, readers).await?;
    let begun = Instant::now();
    let mut moves = Vec::new();
    let mut times = Vec::new();
    let mut broken = None;
    'rounds: for round in 0..rounds {
        let copies = round % COPIES == 0;
        if copies && round > 0 {
            platform.settle(SLUG).await?;
        }
        for there in [true, false] {
            let from = Instant::now();
            let moved = match there && copies {
                true => platform.go(SLUG, Pace::Gentle).await,
                false => platform.return_(SLUG).await,
            };
            match moved {
                Ok(moved) => moves.push(moved),
                Err(error) => {
                    broken = Some(error.context(format!("round {round}")));
                    break 'rounds;
                }
            }
            times.push((from, Instant::now()));
        }
    }
    let took = begun.elapsed();
    let outcome = load.end(platform, SLUG).await?;
    println!(
        "{} moves in {took:?}, with {writers} writers and {readers} readers: {:.0} writes and {:.0} \
         pages in a second",
        moves.len(),
        outcome.writes.answers.len() as f64 / took.as_secs_f64(),
        outcome.reads.answers.len() as f64 / took.as_secs_f64(),
    );
    tell(platform, &moves)?;
    let longest = |seen: &ledger::Seen| -> Vec<Duration> {
        times.iter().map(|(from, to)| seen.longest(*from, *to)).collect()
    };
    println!("{}", line("a write", &outcome.writes.times()));
    println!("{}", line("a page", &outcome.reads.times()));
    println!("{}", line("the longest write of each move", &longest(&outcome.writes)));
    println!("{}", line("the longest page of each move", &longest(&outcome.reads)));
    outcome.judge()?;
    match broken {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn tell(platform: &Platform, moves: &[Moved]) -> Result<()> {
    let held: Vec<_> = moves.iter().map(|moved| moved.held).collect();
    println!("{} (bars: p50 200 ms, p99 500 ms)", line("requests were held", &held));
    for (part, times) in platform.parts_of_holds(moves.len())? {
        println!("  {}", line(&part, &times));
    }
    println!("{}", line("a move", &moves.iter().map(|moved| moved.took).collect::<Vec<_>>()));
    let copies: Vec<_> = moves.iter().filter_map(Moved::copying).collect();
    println!("{}", line("a copy of the rows", &copies));
    let given_up: Vec<_> = moves.iter().flat_map(|moved| &moved.given_up).collect();
    println!("tries to switch that were given up: {}", given_up.len());
    given_up.iter().for_each(|reason| println!("  {reason}"));
    Ok(())
}

/// Whether a big site is held for longer than a small one.
async fn sizes(platform: &Platform, big: u64) -> Result<()> {
    let mut middles = Vec::new();
    for (slug, bytes) in [("small", SMALL), ("big", big)] {
        platform.create(slug, 2).await?;
        platform.fill(slug, bytes).await?;
        let load = ledger::begin(platform, slug, 2, 2).await?;
        let mut moves = vec![platform.go(slug, Pace::Fast).await?];
        for _ in 1..OF_EACH_SIZE {
            moves.push(platform.return_(slug).await?);
        }
        let outcome = load.end(platform, slug).await?;
        println!("{slug}:");
        tell(platform, &moves)?;
        outcome.judge()?;
        middles.push(median(&moves.iter().map(|moved| moved.held).collect::<Vec<_>>()));
        let taken = platform.dump_and_restore(slug).await?;
        println!("{slug}, by dump and restore nobody could write for {taken:?}");
    }
    let [small, big] = middles.as_slice() else { bail!("not two sizes") };
    let ratio = big.as_secs_f64() / small.as_secs_f64();
    println!("a big site is held {ratio:.2} times as long as a small one (bar: 1.5)");
    Ok(())
}

/// What a copy does to the requests of another site of both clusters.
async fn neighbour(platform: &Platform, copies_of_all: u64) -> Result<()> {
    const SLUG: &str = "neighbour";
    platform.create(SLUG, 2).await?;
    platform.create("big", 0).await?;
    platform.fill("big", BIG).await?;
    let load = ledger::begin(platform, SLUG, 2, 2).await?;
    let (mut calm, mut copies, mut comparisons) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..copies_of_all {
        if round > 0 {
            platform.settle("big").await?;
        }
        // What was dropped and written is on the disk before the next measurement.
        tokio::time::sleep(Duration::from_secs(10)).await;
        let from = Instant::now();
        tokio::time::sleep(CALM).await;
        calm.push((from, Instant::now()));
        let moved = platform.go("big", Pace::Gentle).await?;
        copies.extend(moved.copy);
        comparisons.extend(moved.comparison);
    }
    let outcome = load.end(platform, SLUG).await?;
    for (what, seen) in [("a write", &outcome.writes), ("a page", &outcome.reads)] {
        let calm = seen.within(&calm);
        println!("{}", line(&format!("{what} of the neighbour"), &calm));
        for (meanwhile, spans) in [("a copy", &copies), ("a comparison", &comparisons)] {
            let busy = seen.within(spans);
            println!("{}", line(&format!("{what} of the neighbour during {meanwhile}"), &busy));
            let ratio = p99(&busy).as_secs_f64() / p99(&calm).as_secs_f64();
            println!("  p99: {ratio:.2} times as long (bar for the copy: 1.2)");
        }
    }
    outcome.judge()
}
