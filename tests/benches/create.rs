//! From the command to the first page: creates sites with the real command line on a platform that
//! has others already, and prints the distribution, and what the parts take of memory. Run by hand:
//! `cargo build --release --workspace --bins && cargo bench -p tests --bench create`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tests::{Stack, stack::Start};

/// Sites that are there already.
const OTHERS: usize = 50;
/// Sites that are measured.
const MEASURED: usize = 50;
/// Sites that nobody visits.
const SLEEPING: usize = 200;
/// Where those are: the other region's cluster has no room for so many more.
const SLEEPERS: &str = "sg-singapore";

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
    memory(&stack, &runtime)
}

/// Memory of each part, and what sleeping sites add to it.
fn memory(stack: &Stack, runtime: &tokio::runtime::Runtime) -> Result<()> {
    let show = |component: &str| -> Result<u64> { rss_kib(stack.process(component)?) };
    let parts = ["provisioner", "router-id-jakarta", "router-sg-singapore"];
    let before: Vec<u64> = parts.iter().map(|part| show(part)).collect::<Result<_>>()?;
    let site = runtime.block_on(stack.api()?.site("measured-0"))?;
    let instance = site.instance.and_then(|instance| instance.process_id);
    let warm = instance.context("measured-0 sleeps already")?;
    println!("a warm instance: {} KiB resident, {} KiB its own", rss_kib(warm)?, own_kib(warm)?);
    for number in 0..SLEEPING {
        let slug = format!("sleeping-{number}");
        let admin = format!("admin@{slug}.test");
        let arguments =
            ["site", "create", &slug, "--name", &slug, "--region", SLEEPERS, "--admin", &admin];
        stack.cli(&arguments)?.ok()?;
    }
    for (part, before) in parts.iter().zip(before) {
        let after = show(part)?;
        println!("{part}: {before} KiB resident, with {SLEEPING} more sleeping sites {after} KiB");
    }
    Ok(())
}

fn rss_kib(process: i32) -> Result<u64> {
    field_kib(&format!("/proc/{process}/status"), &["VmRSS:"])
}

/// What no other process shares.
fn own_kib(process: i32) -> Result<u64> {
    field_kib(&format!("/proc/{process}/smaps_rollup"), &["Private_Clean:", "Private_Dirty:"])
}

fn field_kib(path: &str, names: &[&str]) -> Result<u64> {
    let text = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
    let mut sum = 0;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next().is_some_and(|name| names.contains(&name)) {
            sum += words.next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(sum)
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
