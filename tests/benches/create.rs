//! From the command to the first page: creates sites with the real command line on a platform that
//! has others already, and prints the distribution. Run by hand:
//! `cargo build --release --workspace --bins && cargo bench -p tests --bench create`.

use std::time::{Duration, Instant};

use anyhow::Result;
use tests::{Stack, stack::Start};

/// Sites that are there already.
const OTHERS: usize = 50;
/// Sites that are measured.
const MEASURED: usize = 50;

fn main() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let stack = Stack::start(Start::default())?;
    println!("up in {:?}", stack.took);
    for number in 0..OTHERS {
        create(&stack, &runtime, &format!("other-{number}"))?;
    }
    let mut all = Vec::new();
    let mut wakes = Vec::new();
    for number in 0..MEASURED {
        let (total, wake) = create(&stack, &runtime, &format!("measured-{number}"))?;
        all.push(total);
        wakes.push(wake);
    }
    print("from the command to the first page, of that", &mut all);
    print("the first page of a sleeping site", &mut wakes);
    Ok(())
}

/// How long until the new site's home page was there, and how much of it was the page itself.
fn create(
    stack: &Stack,
    runtime: &tokio::runtime::Runtime,
    slug: &str,
) -> Result<(Duration, Duration)> {
    let admin = format!("admin@{slug}.test");
    let visitor = stack.visitor()?;
    let began = Instant::now();
    let arguments =
        ["site", "create", slug, "--name", slug, "--region", "id-jakarta", "--admin", &admin];
    stack.cli(&arguments)?.ok()?;
    let created = Instant::now();
    let url = stack.url(slug, "id-jakarta")?;
    runtime.block_on(visitor.read(&format!("{url}/")))?;
    Ok((began.elapsed(), created.elapsed()))
}

fn print(what: &str, all: &mut [Duration]) {
    all.sort();
    let at = |part: usize| all[(all.len() * part / 100).min(all.len() - 1)];
    println!(
        "{what}: n {}, p50 {:?}, p90 {:?}, p95 {:?}, max {:?}",
        all.len(),
        at(50),
        at(90),
        at(95),
        at(100)
    );
}
