//! Whether there is a way out of every state. The checker itself follows paths forwards and joins
//! them, so it cannot say; here the graph is explored once and then walked backwards from its ends.

use std::collections::{HashMap, VecDeque};

use stateright::Model;

use crate::model::{Event, Moves, State};

/// The graph of what can happen.
struct Graph {
    states: Vec<State>,
    /// For each state, how it was reached first.
    reached_by: Vec<Option<(usize, Event)>>,
    /// For each state, those that lead to it by what is to be expected.
    expected_from: Vec<Vec<usize>>,
}

/// How many states there are, and the way to one that no end can be reached from, if there is one.
pub fn dead_end(model: &Moves) -> (usize, Option<Vec<Event>>) {
    let graph = Graph::explore(model);
    let mut has_end: Vec<bool> = graph.states.iter().map(State::rests).collect();
    let mut queue: VecDeque<usize> = (0..has_end.len()).filter(|at| has_end[*at]).collect();
    while let Some(at) = queue.pop_front() {
        for before in &graph.expected_from[at] {
            if !has_end[*before] {
                has_end[*before] = true;
                queue.push_back(*before);
            }
        }
    }
    let dead = has_end.iter().position(|has_end| !has_end);
    (graph.states.len(), dead.map(|at| graph.way_to(at)))
}

impl Graph {
    fn explore(model: &Moves) -> Self {
        let mut graph =
            Self { states: Vec::new(), reached_by: Vec::new(), expected_from: Vec::new() };
        let mut places = HashMap::new();
        for state in model.init_states() {
            graph.place(&mut places, state, None);
        }
        let mut events = Vec::new();
        let mut at = 0;
        while at < graph.states.len() {
            model.actions(&graph.states[at], &mut events);
            for event in events.drain(..) {
                let Some(next) = model.next_state(&graph.states[at], event) else { continue };
                let next = graph.place(&mut places, next, Some((at, event)));
                if event.is_to_be_expected() {
                    graph.expected_from[next].push(at);
                }
            }
            at += 1;
        }
        graph
    }

    fn place(
        &mut self,
        places: &mut HashMap<State, usize>,
        state: State,
        by: Option<(usize, Event)>,
    ) -> usize {
        if let Some(at) = places.get(&state) {
            return *at;
        }
        let at = self.states.len();
        places.insert(state.clone(), at);
        self.states.push(state);
        self.reached_by.push(by);
        self.expected_from.push(Vec::new());
        at
    }

    fn way_to(&self, mut at: usize) -> Vec<Event> {
        let mut way = Vec::new();
        while let Some((before, event)) = self.reached_by[at] {
            way.push(event);
            at = before;
        }
        way.reverse();
        way
    }
}
