//! The limit of the machine: what a program could deliver that does nothing but write.
//!
//! One thread writes frames to sockets whose other ends another thread empties. With one frame a
//! write, the kernel's cost of a write is all there is; with many frames a write, as a broker can
//! have under load, it is divided among them. No broker that writes to sockets does better at the
//! same number of frames a write. And the round trip of a bare echo, for ping-pong.

use anyhow::Result;
use rustix::time::{ClockId, clock_gettime};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of a frame: an MQTT PUBLISH with a short topic and a payload of 16 bytes, as in the
/// scenarios.
const FRAME: usize = 24;

/// Sockets that are written to in turns.
const SOCKETS: usize = 1000;

/// How long each is measured.
const TIME: Duration = Duration::from_secs(2);

/// Round trips of the echo.
const ECHOES: usize = 20_000;

/// Measures and prints it.
pub fn run() -> Result<()> {
    println!("frames of {FRAME} bytes to {SOCKETS} sockets, one thread writes, another reads");
    println!(
        "{:>16} {:>26} {:>14}",
        "frames a write", "frames per CPU-second", "frames/s"
    );
    for frames in [1, 4, 16, 64] {
        let (per_cpu, per_sec) = writes(frames)?;
        println!("{frames:>16} {per_cpu:>26.0} {per_sec:>14.0}");
    }
    println!("round trip of a bare echo: {:.1} us (median)", echo()?);
    Ok(())
}

/// A connection to ourselves.
fn pair(listener: &TcpListener) -> Result<(TcpStream, TcpStream)> {
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    Ok((near, far))
}

/// Frames per second of the writer's processor time, and per second.
fn writes(frames: u32) -> Result<(f64, f64)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for _ in 0..SOCKETS {
        let (one, other) = pair(&listener)?;
        other.set_nonblocking(true)?;
        near.push(one);
        far.push(other);
    }
    let over = Arc::new(AtomicBool::new(false));
    let is_over = Arc::clone(&over);
    let reader = thread::spawn(move || drain(&mut far, &is_over));
    let bytes = vec![0; FRAME * frames as usize];
    let (begun, cpu) = (Instant::now(), thread_secs());
    let mut written = 0.0;
    while begun.elapsed() < TIME {
        for socket in &mut near {
            socket.write_all(&bytes)?;
        }
        written += f64::from(frames) * SOCKETS as f64;
    }
    let (secs, cpu) = (begun.elapsed().as_secs_f64(), thread_secs() - cpu);
    over.store(true, Ordering::Relaxed);
    drop(near);
    let _ = reader.join();
    Ok((written / cpu, written / secs))
}

/// Reads from all sockets until told to end.
fn drain(sockets: &mut [TcpStream], over: &AtomicBool) {
    let mut buffer = vec![0; 64 * 1024];
    while !over.load(Ordering::Relaxed) {
        for socket in &mut *sockets {
            match socket.read(&mut buffer) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

/// Median round trip in microseconds.
fn echo() -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (mut near, mut far) = pair(&listener)?;
    let echoing = thread::spawn(move || {
        let mut frame = [0; FRAME];
        while far.read_exact(&mut frame).is_ok() && far.write_all(&frame).is_ok() {}
    });
    let mut frame = [0; FRAME];
    let mut times = Vec::with_capacity(ECHOES);
    for _ in 0..ECHOES {
        let sent = Instant::now();
        near.write_all(&frame)?;
        near.read_exact(&mut frame)?;
        times.push(sent.elapsed());
    }
    drop(near);
    let _ = echoing.join();
    times.sort_unstable();
    Ok(times[ECHOES / 2].as_secs_f64() * 1e6)
}

/// Processor time of this thread.
fn thread_secs() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_echo_comes_back() {
        let median = echo().unwrap();
        assert!(median > 0.0, "{median}");
    }
}
