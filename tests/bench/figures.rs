//! The table that is printed.

use std::time::Duration;

/// What has been measured so far.
#[derive(Default)]
pub(crate) struct Figures(Vec<[String; 4]>);

impl Figures {
    /// A figure without a target.
    pub(crate) fn note(&mut self, what: &str, figure: impl Into<String>) {
        self.add(what, figure.into(), String::new(), "");
    }

    /// A figure and what it should be; `met` is whether it is.
    pub(crate) fn compare(&mut self, what: &str, figure: impl Into<String>, target: &str, met: bool) {
        self.add(what, figure.into(), target.to_owned(), if met { "yes" } else { "NO" });
    }

    /// Times: the median, and the 99th percentile, which is what a target is for.
    pub(crate) fn times(&mut self, what: &str, mut times: Vec<Duration>, target: Option<Duration>) {
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() * percent).div_ceil(100).saturating_sub(1)];
        let figure = format!("p50 {:>8.3?}  p99 {:>8.3?}  ({} times)", at(50), at(99), times.len());
        match target {
            Some(target) => self.compare(what, figure, &format!("p99 < {target:?}"), at(99) < target),
            None => self.note(what, figure),
        }
    }

    #[expect(clippy::print_stderr, reason = "it takes minutes: this shows that it goes on")]
    fn add(&mut self, what: &str, figure: String, target: String, met: &str) {
        eprintln!("{what}: {figure}");
        self.0.push([what.to_owned(), figure, target, met.to_owned()]);
    }

    /// Prints all of it.
    #[expect(clippy::print_stdout, reason = "what it is for")]
    pub(crate) fn print(&self) {
        let head = ["what", "figure", "target", "met"].map(str::to_owned);
        let lines = || std::iter::once(&head).chain(&self.0);
        let width = |column: usize| lines().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let [what, figure, target] = [0, 1, 2].map(width);
        println!();
        for line in lines() {
            println!("{:what$}  {:figure$}  {:target$}  {}", line[0], line[1], line[2], line[3]);
        }
    }
}
