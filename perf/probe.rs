//! How long a cache takes to answer while it is busy: questions at a fixed rate, and the times of
//! their answers.
//!
//! ```text
//! probe HOST:PORT RATE SECONDS CONNECTIONS NAME...
//! ```
//! Questions are due at fixed times. A question that had to wait for the answer before it counts
//! from when it was due, so that a cache that stands still for a second is charged with every
//! question of that second. Prints one JSON object with times in microseconds.

#![allow(clippy::print_stdout, reason = "the result goes there")]
#![allow(missing_docs, reason = "a program, not a library")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use carbyne::wire::carbonlink_reply::cache_query;
use hdrhistogram::Histogram;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Longest time that is told apart from longer ones: a minute.
const MICROS_MAX: u64 = 60_000_000;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, rate, seconds, connections, names @ ..] = args.as_slice() else {
        return Err("probe HOST:PORT RATE SECONDS CONNECTIONS NAME...".into());
    };
    if names.is_empty() {
        return Err("probe needs a name".into());
    }
    let connections: u32 = connections.parse()?;
    let interval = Duration::from_secs_f64(f64::from(connections) / rate.parse::<f64>()?);
    let until = Instant::now() + Duration::from_secs_f64(seconds.parse()?);
    let mut all = Histogram::<u64>::new_with_max(MICROS_MAX, 3)?;
    let results: Vec<Result<Histogram<u64>, Failure>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|number| {
                let first =
                    Instant::now() + interval.mul_f64(f64::from(number) / f64::from(connections));
                scope.spawn(move || ask(address, names, number as usize, first, interval, until))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
    });
    for result in results {
        all.add(&result?)?;
    }
    let at = |quantile| all.value_at_quantile(quantile);
    println!(
        "{{\"answers\": {}, \"p50\": {}, \"p90\": {}, \"p99\": {}, \"p999\": {}, \"max\": {}}}",
        all.len(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        all.max()
    );
    Ok(())
}

fn ask(
    address: &str,
    names: &[String],
    mut next: usize,
    first: Instant,
    interval: Duration,
    until: Instant,
) -> Result<Histogram<u64>, Failure> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut times = Histogram::<u64>::new_with_max(MICROS_MAX, 3)?;
    let (mut question, mut answer) = (Vec::new(), Vec::new());
    let mut due = first;
    while due < until {
        let now = Instant::now();
        let since = if now < due {
            std::thread::sleep(due - now);
            Instant::now()
        } else {
            due
        };
        question.clear();
        cache_query(&mut question, &names[next % names.len()]);
        stream.write_all(&question)?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        answer.resize(usize::try_from(u32::from_be_bytes(length))?, 0);
        stream.read_exact(&mut answer)?;
        let micros = u64::try_from(since.elapsed().as_micros())?;
        times.saturating_record(micros);
        next += 1;
        due += interval;
    }
    Ok(times)
}
