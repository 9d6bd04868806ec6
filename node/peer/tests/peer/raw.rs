//! A peer played by hand on a raw socket, and a proxy that damages what passes.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use bytes::{Bytes, BytesMut};
use henge_peer::{
    frame::{self, Frame, Kind, MESSAGE_BYTES_MAX, Taken},
    handshake::{Dial, FORMATS, Local, Purpose},
};

use crate::cluster::{CLUSTER, HANG, free_address};

pub fn local(node_id: u64) -> Local {
    Local {
        cluster_id: CLUSTER,
        node_id,
        boot: 9_000 + node_id,
        formats: FORMATS,
    }
}

/// A peer played by hand.
pub struct Raw {
    pub stream: TcpStream,
    pub buffer: BytesMut,
}

impl Raw {
    pub fn new(stream: TcpStream) -> Raw {
        stream.set_read_timeout(Some(HANG)).expect("not zero");
        Raw {
            stream,
            buffer: BytesMut::new(),
        }
    }

    pub fn dial(address: SocketAddr) -> Raw {
        Raw::new(TcpStream::connect(address).expect("listening"))
    }

    /// Dials and shakes hands.
    pub fn session(address: SocketAddr, local: Local, to: u64) -> Raw {
        let mut raw = Raw::dial(address);
        let (dial, first) = Dial::start(local, to, Purpose::Session);
        raw.send_frame(&first);
        dial.answer(&raw.frame().expect("an answer"))
            .expect("agreed");
        raw
    }

    /// Accepts and answers.
    pub fn accept(listener: &TcpListener, local: Local, from: u64) -> Raw {
        let mut raw = Raw::new(listener.accept().expect("a caller").0);
        assert_eq!(raw.frame().expect("a hello").kind, Kind::Hello);
        raw.send_frame(&Dial::start(local, from, Purpose::Session).1);
        raw
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("open");
    }

    pub fn send_frame(&mut self, frame: &Frame) {
        self.send(&frame::encode(frame.kind, &frame.payload).expect("short"));
    }

    pub fn message(&mut self, payload: &[u8]) {
        self.send(&frame::encode(Kind::Message, payload).expect("short"));
    }

    /// The next frame; None when the other side hung up.
    pub fn frame(&mut self) -> Option<Frame> {
        loop {
            match frame::take(&mut self.buffer, MESSAGE_BYTES_MAX).expect("whole frames") {
                Taken::Frame(frame) => return Some(frame),
                Taken::Need(_) => {}
            }
            let mut piece = [0; 4_096];
            match self.stream.read(&mut piece) {
                Ok(0) => return None,
                Ok(read) => self.buffer.extend_from_slice(&piece[..read]),
                // Hung up with bytes of ours unread: TCP calls that a reset.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("the other side neither answers nor hangs up: {error}"),
            }
        }
    }
}

/// Passes bytes on, and now and then flips one bit or cuts the connection.
pub struct Proxy {
    pub address: SocketAddr,
    pub calm: Arc<AtomicBool>,
}

impl Proxy {
    pub fn start(target: SocketAddr, seed: u64) -> Proxy {
        let listener = TcpListener::bind(free_address()).expect("free");
        let address = listener.local_addr().expect("bound");
        let calm = Arc::new(AtomicBool::new(false));
        let calm_inside = Arc::clone(&calm);
        // Ends with the process, as its connections do when both nodes are gone.
        thread::spawn(move || {
            let mut dice = Dice(seed);
            for caller in listener.incoming() {
                let (Ok(caller), Ok(callee)) = (caller, TcpStream::connect(target)) else {
                    continue;
                };
                for (from, to) in [(&caller, &callee), (&callee, &caller)] {
                    let (from, to) = (from.try_clone().expect("fd"), to.try_clone().expect("fd"));
                    let (dice, calm) = (Dice(dice.roll()), Arc::clone(&calm_inside));
                    thread::spawn(move || pass(from, to, dice, &calm));
                }
            }
        });
        Proxy { address, calm }
    }
}

pub fn pass(mut from: TcpStream, mut to: TcpStream, mut dice: Dice, calm: &AtomicBool) {
    let mut piece = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut piece) {
        let trouble = if calm.load(Ordering::Relaxed) {
            u64::MAX
        } else {
            dice.roll() % 60
        };
        if trouble == 0 {
            break;
        }
        if trouble < 3 {
            let at = usize::try_from(dice.roll()).unwrap_or(0) % read;
            piece[at] ^= 1 << (dice.roll() % 8);
        }
        if to.write_all(&piece[..read]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// A message that tells whether it was altered, and its number.
pub fn sealed(number: u64, length: usize) -> Bytes {
    let mut rest = number.to_le_bytes().to_vec();
    rest.resize(8 + length, number.to_le_bytes()[0]);
    let mut message = crc32c::crc32c(&rest).to_le_bytes().to_vec();
    message.extend_from_slice(&rest);
    Bytes::from(message)
}

/// SplitMix64.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
