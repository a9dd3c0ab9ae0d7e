//! Destinations and sources that a move refuses, before anything is moved.

use markread_harness::Proxy;

use super::*;

/// Each with what is said of it, and the status.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_destinations_are_named_and_the_source_stays_in_service() {
    let (from, _subject) = filled(2).await;
    let server = Server::on(&from).await;
    let before = exported(&from).await;
    let right = Redis::start().await;
    let master = right.port.to_string();
    let replica = Redis::with(&["--replicaof", "127.0.0.1", &master]).await;
    let (newer, other, foreign) =
        (Redis::start().await, Redis::start().await, Redis::start().await);
    newer.run::<()>("HSET markread:layout version 3 partitions 1").await;
    other.run::<()>("HSET markread:layout version 2 partitions 64").await;
    import(&foreign, &line(1, 2, 3, 4)).await.done();
    let cluster =
        Redis::with(&["--cluster-enabled", "yes", "--cluster-port", &free_port().to_string()])
            .await;
    let evicting = Redis::with(&["--maxmemory-policy", "allkeys-random"]).await;
    let mut away = Redis::start().await;
    away.kill().await;
    for (to, status, said) in [
        (&*from, 1, "--to is the Redis of --redis-url: it must be another one"),
        (&replica, 1, "the destination: this Redis is a replica"),
        (&evicting, 1, "the destination: maxmemory-policy allows Redis to evict read cursors"),
        (&newer, 2, "layout version \"3\""),
        (&other, 2, "\"64\" partitions"),
        (&foreign, 1, "the destination has cursors that are not of a move from this Redis"),
        (&cluster, 1, "cluster mode"),
        (&away, 1, "the destination: "),
    ] {
        for flags in [&[][..], FINISH] {
            let refused = move_cursors(&from, to, flags).await;
            assert_eq!(refused.status, Some(status), "{said}: {refused:?}");
            let line = refused.stderr.lines().last().unwrap();
            assert!(line.starts_with("markread: ") && line.contains(said), "{line}");
            assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
        }
    }
    assert_eq!(exported(&from).await, before);
    assert!(server.caller(1).mark(1, MESSAGE + 1).await.unwrap().advanced);
    assert_eq!(foreign.cursors(1).await, HashMap::from([(2, 3)]));
    move_cursors(&from, &right, FINISH).await.done();
    // Its replica has the cursors now, and is no destination for that.
    let refused = move_cursors(&from, &replica, FINISH).await;
    assert!(refused.stderr.contains("this Redis is a replica"), "{refused:?}");
    assert_eq!(evicting.run::<u64>("DBSIZE").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_sources_are_named() {
    let (from, _subject) = filled(2).await;
    let (empty, to) = (Redis::start().await, Redis::start().await);
    let replica = Redis::with(&["--replicaof", "127.0.0.1", &from.port.to_string()]).await;
    eventually("the replica has the layout", ENDS, async || {
        let there: u64 = replica.run("EXISTS markread:layout").await;
        (there == 1).then_some(())
    })
    .await;
    for (from, status, said) in [
        (&empty, 2, "this Redis has no layout of markread"),
        (&replica, 1, "this Redis is a replica: the URL must be that of the master"),
    ] {
        let refused = move_cursors(from, &to, FINISH).await;
        assert_eq!(refused.status, Some(status), "{refused:?}");
        assert!(refused.stderr.contains(said), "{refused:?}");
    }
    from.run::<()>("HSET markread:layout version 2-to-1").await;
    let refused = move_cursors(&from, &to, FINISH).await;
    assert!(refused.stderr.contains("run markread admin downgrade-layout again"), "{refused:?}");
    from.run::<()>("HSET markread:layout version 2").await;
    move_cursors(&from, &to, FINISH).await.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_stream_than_the_servers_is_refused() {
    let (from, subject) = filled(2).await;
    let to = Redis::start().await;
    from.run::<()>("XADD of_another * a b").await;
    from.run::<()>("SET a_string x").await;
    for (stream, said) in [
        ("forgotten", "--stream forgotten is not there: the servers' --stream must be given"),
        ("of_another", "--stream of_another has entries of other programs alone"),
        ("a_string", "--stream a_string is not a stream"),
    ] {
        for flags in [&["--stream", stream][..], &["--stream", stream, "--finish"]] {
            let refused = move_cursors(&from, &to, flags).await.failed();
            assert!(refused.contains(said), "{refused}");
        }
    }
    subject.mark_one(mark(64, 1, MESSAGE + 1)).await;
    move_cursors(&from, &to, FINISH).await.done();
    for words in [&["move", "--to", &to.url(), "--finish"][..], &["move", "--undo"]] {
        let refused = admin(&from, &[words, &["--stream", "of_another"]].concat()).await.failed();
        assert!(refused.contains("were moved with another --stream"), "{refused}");
    }
    let kinds = ["direct_message_mark_read_events", "markread:moved_events", "of_another"];
    for (key, kind) in kinds.iter().zip(["string", "stream", "stream"]) {
        assert_eq!(from.run::<String>(&format!("TYPE {key}")).await, kind, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_moved_is_not_moved_elsewhere() {
    let (from, _subject) = filled(2).await;
    let (to, other) = (Redis::start().await, Redis::start().await);
    move_cursors(&from, &to, FINISH).await.done();
    let refused = move_cursors(&from, &other, FINISH).await.failed();
    assert!(refused.contains("were moved to another Redis than --to"), "{refused}");
    assert_eq!(exported(&other).await.len(), 0);
    move_cursors(&from, &to, FINISH).await.done();
    admin(&from, &["move", "--undo"]).await.done();
    move_cursors(&from, &other, FINISH).await.done();
}

/// The destination goes away while it is copied to, and comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_destination_ends_the_command_which_then_goes_on() {
    let (from, _subject) = filled(2).await;
    let to = redis_of(2).await;
    let proxy = Proxy::to(&to).await;
    let through = proxy.url();
    let mut following = {
        let words = ["move", "--to", &through, "--follow"];
        let mut command = admin_command(&from.url(), &words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut lines = BufReader::new(following.stderr.take().unwrap()).lines();
    let warning = timeout(ENDS, lines.next_line()).await.unwrap().unwrap().unwrap();
    assert!(warning.contains("the destination: Redis persists nothing"), "{warning}");
    let first = timeout(ENDS, lines.next_line()).await.unwrap().unwrap().unwrap();
    assert!(first.contains("all are copied"), "{first}");
    drop(proxy);
    let last = timeout(ENDS, lines.next_line()).await.unwrap().unwrap().unwrap();
    assert!(last.starts_with("markread: the destination: "), "{last}");
    assert_eq!(following.wait().await.unwrap().code(), Some(1));
    move_cursors(&from, &to, FINISH).await.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_loses_cursors_is_found_before_servers_are_shut_out() {
    let (from, _subject) = filled(2).await;
    let to = redis_of(2).await;
    let server = Server::on(&from).await;
    let losing = {
        let to = Arc::clone(&to);
        tokio::spawn(async move {
            loop {
                to.run::<()>("UNLINK markread:cursors:64").await;
            }
        })
    };
    let refused = move_cursors(&from, &to, FINISH).await.failed();
    assert!(refused.contains("it does not keep them"), "{refused}");
    server.caller(1).mark(1, MESSAGE + 1).await.unwrap();
    losing.abort();
    move_cursors(&from, &to, FINISH).await.done();
}
