//! The file format: commands, their input, and the output they must give.
//!
//! ```text
//! # a comment
//! command argument key=value key=(value,value)
//! input, any number of lines
//! ----
//! output, up to the next empty line
//! ```
//!
//! Output with empty lines stands between two pairs of `----`.

/// A command and what it must print.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Case {
    /// Where the command stands, from 1.
    pub line: usize,
    pub command: String,
    pub arguments: Vec<Argument>,
    pub input: String,
    /// Ends with a newline unless it is empty.
    pub expected: String,
}

/// `key`, `key=value` or `key=(value,value)`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Argument {
    pub key: String,
    /// Whether it is the key alone. (`key=()` has no values, and is not.)
    pub is_bare: bool,
    pub values: Vec<String>,
}

impl Case {
    /// The values of `key=…`, if it is there.
    pub fn values(&self, key: &str) -> Option<&[String]> {
        let argument = self.arguments.iter().find(|argument| argument.key == key)?;
        Some(&argument.values)
    }

    /// The numbers among the bare arguments.
    pub fn ids(&self) -> Result<Vec<u64>, String> {
        let bare = self.arguments.iter().filter(|argument| argument.is_bare);
        bare.map(|argument| number(&argument.key)).collect()
    }

    /// The first argument, a number.
    pub fn id(&self) -> Result<u64, String> {
        number(self.word(0)?)
    }

    /// The bare argument at `position`.
    pub fn word(&self, position: usize) -> Result<&str, String> {
        let argument = self.arguments.get(position);
        argument
            .map(|it| it.key.as_str())
            .ok_or_else(|| format!("argument {position} is missing"))
    }
}

/// A number, or an error that shows what stands in its place.
pub fn number(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not a number"))
}

/// All cases of a file.
pub fn parse(text: &str) -> Result<Vec<Case>, String> {
    let mut lines = text
        .lines()
        .enumerate()
        .map(|(at, line)| (at + 1, line))
        .peekable();
    let mut cases = Vec::new();
    while let Some((line, first)) = lines.next() {
        let first = first.trim();
        if first.is_empty() || first.starts_with('#') {
            continue;
        }
        let mut directive = first.to_string();
        while directive.ends_with('\\') {
            directive.pop();
            directive += lines.next().map_or("", |(_, line)| line.trim());
        }
        let mut case = parse_directive(line, &directive)?;
        loop {
            match lines.next() {
                None => return Err(format!("line {line}: no ---- after {}", case.command)),
                Some((_, "----")) => break,
                Some((_, input)) => case.input += &format!("{input}\n"),
            }
        }
        let is_double = lines.next_if(|(_, line)| *line == "----").is_some();
        while let Some((_, output)) = lines.next() {
            if is_double && output == "----" && lines.next_if(|(_, it)| *it == "----").is_some() {
                break;
            }
            if !is_double && output.trim().is_empty() {
                break;
            }
            case.expected += &format!("{output}\n");
        }
        cases.push(case);
    }
    Ok(cases)
}

fn parse_directive(line: usize, text: &str) -> Result<Case, String> {
    let mut words = split(text).into_iter();
    let command = words
        .next()
        .ok_or_else(|| format!("line {line}: no command"))?;
    let arguments = words.map(|word| parse_argument(&word)).collect();
    Ok(Case {
        line,
        command,
        arguments,
        ..Case::default()
    })
}

fn parse_argument(word: &str) -> Argument {
    let Some((key, value)) = word.split_once('=') else {
        return Argument {
            key: word.to_string(),
            is_bare: true,
            values: Vec::new(),
        };
    };
    let values = match value
        .strip_prefix('(')
        .and_then(|value| value.strip_suffix(')'))
    {
        Some(inner) => inner
            .split(',')
            .map(|it| it.trim().to_string())
            .filter(|it| !it.is_empty())
            .collect(),
        None => vec![value.to_string()],
    };
    Argument {
        key: key.to_string(),
        is_bare: false,
        values,
    }
}

/// Words, where a parenthesis holds together what is in it.
fn split(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut depth = 0;
    for character in text.chars() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if character == ' ' && depth == 0 {
            words.push(String::new());
        } else if let Some(word) = words.last_mut() {
            word.push(character);
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn the_format() {
    let text = "# comment\n\ndo 1 a=b c=(1, 2,_) d=()\nin 1\nin \
        2\n----\nout\n\nnext\n----\n----\na\n\nb\n----\n----\n\nlast\n----\n";
    let cases = parse(text).unwrap();
    assert_eq!(cases.len(), 3);
    assert_eq!((cases[0].line, cases[0].command.as_str()), (3, "do"));
    assert_eq!(cases[0].ids(), Ok(vec![1]));
    assert!(cases[0].values("d").unwrap().is_empty());
    assert_eq!(cases[0].values("c").unwrap(), ["1", "2", "_"]);
    assert_eq!(
        (cases[0].input.as_str(), cases[0].expected.as_str()),
        ("in 1\nin 2\n", "out\n")
    );
    assert_eq!(cases[1].expected, "a\n\nb\n");
    assert_eq!(cases[2].expected, "");
    assert!(parse("do\nwithout end\n").is_err());
}
