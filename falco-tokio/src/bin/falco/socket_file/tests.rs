//! Races that a test from outside cannot cause: changes between two checks of a path.

use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use super::*;

/// A directory for one test. Dropping this removes it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let place = std::env::temp_dir().join(format!("falco-socket-{name}-{}", std::process::id()));
        fs::create_dir(&place).expect("the directory is new");
        Self(place)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("it can be read").flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn identity_of(path: &Path) -> Identity {
    identity(&fs::symlink_metadata(path).expect("it exists"))
}

#[test]
fn a_socket_that_arrives_after_the_comparison_stays_where_it_is() {
    let scratch = Scratch::new("late");
    let path = scratch.0.join("socket");
    let own = UnixListener::bind(&path).expect("it binds");
    let which = identity_of(&path);
    // Another server replaces the socket after the comparison.
    fs::remove_file(&path).expect("it exists");
    let successor = UnixListener::bind(&path).expect("it binds");
    remove_compared(&path, which).expect("it moves both ways");
    UnixStream::connect(&path).expect("the successor listens");
    assert_eq!(scratch.names(), ["socket"]);
    drop((own, successor));
}

#[test]
fn a_socket_that_arrives_while_another_is_removed_stays() {
    let scratch = Scratch::new("during");
    let [path, kept, new] = ["socket", "kept", "new"].map(|name| scratch.0.join(name));
    let own = UnixListener::bind(&kept).expect("it binds");
    let which = identity_of(&kept);
    for _ in 0..2000 {
        fs::hard_link(&kept, &path).expect("the path is free");
        let successor = UnixListener::bind(&new).expect("it binds");
        thread::scope(|scope| {
            scope.spawn(|| remove_if(&path, which));
            scope.spawn(|| fs::rename(&new, &path));
        });
        UnixStream::connect(&path).expect("the successor listens");
        fs::remove_file(&path).expect("it exists");
        drop(successor);
    }
    assert_eq!(scratch.names(), ["kept"]);
    drop(own);
}

#[tokio::test(start_paused = true)]
async fn a_server_between_bind_and_listen_is_not_dead() {
    let scratch = Scratch::new("between");
    let path = scratch.0.join("socket");
    let starting = Socket::new(Domain::UNIX, Type::STREAM, None).expect("there is a socket");
    let address = SockAddr::unix(&path).expect("the path is short");
    starting.bind(&address).expect("it binds");
    let listens = async {
        tokio::task::yield_now().await;
        starting.listen(1).expect("it listens");
    };
    let (dead, ()) = tokio::join!(dead_socket(&path), listens);
    assert_eq!(dead, None);
    drop(starting);
    assert_eq!(dead_socket(&path).await, Some(identity_of(&path)));
}
