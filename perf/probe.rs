//! How long a cache takes to answer while it is busy: questions at a fixed rate, and the times of
//! their answers.
//!
//! ```text
//! probe HOST:PORT RATE SECONDS CONNECTIONS NAME...
//! ```
//! Questions are due at fixed times. A question that had to wait for the answer before it counts
//! from when it was due, so that a cache that stands still for a second is charged with every
//! question of that second; `asked_p99` counts from when it was asked. Questions that were due and
//! could not be asked in time are `unasked`. Prints one JSON object with times in microseconds.

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

/// Answering times of one connection or of all.
struct Times {
    since_due: Histogram<u64>,
    since_asked: Histogram<u64>,
    unasked: u64,
}

impl Times {
    fn new() -> Result<Times, Failure> {
        Ok(Times {
            since_due: Histogram::new_with_max(MICROS_MAX, 3)?,
            since_asked: Histogram::new_with_max(MICROS_MAX, 3)?,
            unasked: 0,
        })
    }
}

/// When questions are due.
#[derive(Clone, Copy)]
struct Pace {
    first: Instant,
    interval: Duration,
    until: Instant,
}

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
    let start = Instant::now();
    let until = start + Duration::from_secs_f64(seconds.parse()?);
    let results: Vec<Result<Times, Failure>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|number| {
                let first = start + interval.mul_f64(f64::from(number) / f64::from(connections));
                let pace = Pace { first, interval, until };
                scope.spawn(move || ask(address, names, number as usize, pace))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
    });
    let mut all = Times::new()?;
    for result in results {
        let times = result?;
        all.since_due.add(times.since_due)?;
        all.since_asked.add(times.since_asked)?;
        all.unasked += times.unasked;
    }
    let at = |quantile| all.since_due.value_at_quantile(quantile);
    println!(
        "{{\"answers\": {}, \"unasked\": {}, \"p50\": {}, \"p90\": {}, \"p99\": {}, \"p999\": {}, \
         \"max\": {}, \"asked_p50\": {}, \"asked_p99\": {}}}",
        all.since_due.len(),
        all.unasked,
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        all.since_due.max(),
        all.since_asked.value_at_quantile(0.5),
        all.since_asked.value_at_quantile(0.99)
    );
    Ok(())
}

fn ask(address: &str, names: &[String], mut next: usize, pace: Pace) -> Result<Times, Failure> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut times = Times::new()?;
    let (mut question, mut answer) = (Vec::new(), Vec::new());
    let mut due = pace.first;
    while due < pace.until {
        let mut asked = Instant::now();
        if asked >= pace.until {
            times.unasked += 1;
            due += pace.interval;
            continue;
        }
        let is_late = asked > due;
        if !is_late {
            std::thread::sleep(due - asked);
            asked = Instant::now();
        }
        question.clear();
        cache_query(&mut question, &names[next % names.len()]);
        stream.write_all(&question)?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        answer.resize(usize::try_from(u32::from_be_bytes(length))?, 0);
        stream.read_exact(&mut answer)?;
        let answered = Instant::now();
        let since = if is_late { due } else { asked };
        times.since_due.saturating_record(u64::try_from((answered - since).as_micros())?);
        times.since_asked.saturating_record(u64::try_from((answered - asked).as_micros())?);
        next += 1;
        due += pace.interval;
    }
    Ok(times)
}
