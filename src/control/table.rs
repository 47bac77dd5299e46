//! What `burrow status` shows to people.

use std::fmt::Write;

use burrow_host::manager::{GroupStatus, Status, WorkerStatus};

const HEAD: [&str; 7] = ["PID", "STATE", "UP", "BUSY", "REQUESTS", "MEMORY", "SERVING"];

pub fn of(status: &Status) -> String {
    let mut text = format!("{} {} (manager {})\n", status.server, status.instance, status.manager);
    if status.groups.is_empty() {
        text += "\nno process groups\n";
    }
    for group in &status.groups {
        text += &group_table(group);
    }
    text
}

fn group_table(group: &GroupStatus) -> String {
    let mut text = format!(
        "\n{}: {} of {} {}, as user {}\n",
        group.name,
        count(group.processes, "process", "processes"),
        group.threads,
        if group.greenlets { "greenlets" } else { "threads" },
        group.user
    );
    if group.held {
        text += "  new code does not start, see the log: the processes from before go on\n";
    }
    let head = HEAD.map(str::to_owned);
    let rows: Vec<[String; 7]> =
        [head].into_iter().chain(group.workers.iter().map(|worker| row(group, worker))).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        // A String takes whatever is written.
        let _ = writeln!(text, "  {}", line.trim_end());
    }
    text
}

fn row(group: &GroupStatus, worker: &WorkerStatus) -> [String; 7] {
    let longest = worker.serving.iter().max_by(|one, other| one.seconds.total_cmp(&other.seconds));
    let more = worker.serving.len().saturating_sub(1);
    let serving = longest.map_or(String::new(), |request| {
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{} for {:.1} s{more}", request.request, request.seconds)
    });
    [
        worker.pid.to_string(),
        worker.state.clone(),
        duration(worker.age),
        format!("{}/{}", worker.busy, group.threads),
        worker.requests.to_string(),
        format!("{} MiB", worker.memory >> 20),
        serving,
    ]
}

fn count(number: u32, one: &str, several: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { several })
}

/// "42s", "5m03s", "2h07m", "3d04h".
fn duration(seconds: f64) -> String {
    let seconds = seconds as u64;
    match (seconds / 86400, seconds / 3600, seconds / 60) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m{:02}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h{:02}m", minutes % 60),
        (days, hours, _) => format!("{days}d{:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burrow_host::manager::RequestStatus;

    #[test]
    fn durations_are_short() {
        let shown = [0.4, 59.0, 61.0, 3600.0 * 2.5, 86400.0 * 3.0 + 3600.0 * 4.0].map(duration);
        assert_eq!(shown, ["0s", "59s", "1m01s", "2h30m", "3d04h"]);
    }

    #[test]
    fn columns_are_in_line() {
        let request = RequestStatus { request: "GET /cart".into(), seconds: 1.25 };
        let worker = WorkerStatus {
            pid: 7,
            state: "ready".into(),
            memory: 50 << 20,
            serving: vec![request],
            ..Default::default()
        };
        let group = GroupStatus {
            name: "shop".into(),
            user: "jane".into(),
            processes: 1,
            threads: 4,
            workers: vec![worker],
            ..Default::default()
        };
        let text = of(&Status { server: "nginx".into(), groups: vec![group], ..Default::default() });
        let lines: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(lines[0], "shop: 1 process of 4 threads, as user jane");
        assert_eq!(lines[1], "  PID  STATE  UP  BUSY  REQUESTS  MEMORY  SERVING");
        assert_eq!(lines[2], "  7    ready  0s  0/4   0         50 MiB  GET /cart for 1.2 s");
    }
}
