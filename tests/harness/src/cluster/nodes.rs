//! What a node knows of its cluster: `CLUSTER NODES`.

use std::collections::HashMap;

use crate::Redis;

/// A node, as another one knows it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its ID.
    pub id: String,
    /// Such as `myself,master` or `slave,fail?`.
    pub flags: Vec<String>,
    connected: bool,
    /// The first and the last slot of each range.
    slots: Vec<(u16, u16)>,
}

impl Node {
    /// Parses a line: `<id> <address> <flags> <master> <ping> <pong> <epoch> <link> <slots>…`.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (id, _address, flags) = (words.next()?, words.next()?, words.next()?);
        let connected = words.nth(4)? == "connected";
        let slots = words.filter(|word| !word.starts_with('[')).map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            (first.parse().unwrap(), last.parse().unwrap())
        });
        Some(Self {
            id: id.to_owned(),
            flags: flags.split(',').map(str::to_owned).collect(),
            connected,
            slots: slots.collect(),
        })
    }

    /// Whether it has this flag.
    pub fn is(&self, flag: &str) -> bool {
        self.flags.iter().any(|has| has == flag)
    }

    /// Whether it is known for good, and reached.
    pub fn is_connected(&self) -> bool {
        self.connected && !self.is("handshake") && !self.is("noaddr")
    }

    /// Whether it serves a slot.
    pub fn is_master_of(&self, slot: u16) -> bool {
        self.is("master")
            && !self.is("fail")
            && self.slots.iter().any(|&(first, last)| (first..=last).contains(&slot))
    }
}

/// Nodes of a cluster.
impl Redis {
    /// The nodes that this one knows.
    pub async fn topology(&self) -> Vec<Node> {
        self.try_topology().await.expect("it answers")
    }

    /// The same as [`Redis::topology`], or `None` if it does not answer.
    pub async fn try_topology(&self) -> Option<Vec<Node>> {
        let nodes: String = self.try_run("CLUSTER NODES").await?;
        Some(nodes.lines().filter_map(Node::parse).collect())
    }

    /// The fields of an answer like that of `INFO`.
    pub async fn info(&self, command: &str) -> HashMap<String, String> {
        let info: String = self.run(command).await;
        let fields = info.lines().filter_map(|line| line.split_once(':'));
        fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Node;

    #[test]
    fn lines_of_nodes_are_parsed() {
        let line = "07c3 127.0.0.1:30004@31004,host master,fail? - 0 1426238317239 4 connected 0-5 9 [93-<-292f]";
        let node = Node::parse(line).unwrap();
        assert_eq!((&*node.id, node.is("fail?"), node.is_connected()), ("07c3", true, true));
        assert_eq!(
            [0, 5, 6, 9, 93].map(|slot| node.is_master_of(slot)),
            [true, true, false, true, false]
        );
    }
}
