//! Bipartite matching by augmenting paths (Kuhn): which of several possible operations explains which
//! revision, when the revision itself does not say.

/// Finds for every left node a right node of its own among `choices[left]`; otherwise names a left node
/// that has none.
pub fn assign(choices: &[Vec<usize>], rights: usize) -> Result<Vec<usize>, usize> {
    let mut owner = vec![None; rights];
    for left in 0..choices.len() {
        let mut tried = vec![false; rights];
        if !augment(left, choices, &mut owner, &mut tried) {
            return Err(left);
        }
    }
    let mut assigned = vec![0; choices.len()];
    for (right, owner) in owner.iter().enumerate() {
        if let Some(left) = owner {
            assigned[*left] = right;
        }
    }
    Ok(assigned)
}

fn augment(
    left: usize,
    choices: &[Vec<usize>],
    owner: &mut [Option<usize>],
    tried: &mut [bool],
) -> bool {
    for &right in &choices[left] {
        if std::mem::replace(&mut tried[right], true) {
            continue;
        }
        let free = match owner[right] {
            None => true,
            Some(other) => augment(other, choices, owner, tried),
        };
        if free {
            owner[right] = Some(left);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greedy_choice_is_undone_where_needed() {
        assert_eq!(assign(&[vec![0, 1], vec![0]], 2), Ok(vec![1, 0]));
        assert_eq!(assign(&[vec![0], vec![0]], 2), Err(1));
        assert_eq!(assign(&[], 0), Ok(Vec::new()));
    }
}
