//! A small plot: milliseconds to EFFECTIVE over the number of watchers, both logarithmic.

use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
const MARGIN: f64 = 60.0;

/// Of (watchers, p50, p99).
pub(crate) fn revocations(points: &[(f64, f64, f64)]) -> String {
    let x = |watchers: f64| MARGIN + watchers.log10() / 4.0 * (WIDTH - 2.0 * MARGIN);
    // From 1 ms to 1 s.
    let y = |millis: f64| HEIGHT - MARGIN - millis.clamp(1.0, 1_000.0).log10() / 3.0 * (HEIGHT - 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{}\" y=\"24\" text-anchor=\"middle\" font-size=\"14\">Revoke to EFFECTIVE, 3 replicas, all healthy</text>\n\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">watchers</text>\n",
        WIDTH / 2.0,
        WIDTH / 2.0,
        HEIGHT - 16.0
    );
    for power in 0..=4 {
        let (value, label) = (10_f64.powi(power), 10_u32.pow(power as u32));
        let (at_x, at_y) = (x(value), y(value));
        let (bottom, left, right) = (HEIGHT - MARGIN, MARGIN, WIDTH - MARGIN);
        let _ = writeln!(svg, "<text x=\"{at_x}\" y=\"{}\" text-anchor=\"middle\">{label}</text>", bottom + 18.0);
        if power > 3 {
            continue;
        }
        let _ = writeln!(svg, "<line x1=\"{left}\" y1=\"{at_y}\" x2=\"{right}\" y2=\"{at_y}\" stroke=\"#ddd\"/>");
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{label} ms</text>", left - 8.0, at_y + 4.0);
    }
    let target = y(50.0);
    let _ = writeln!(
        svg,
        "<line x1=\"{MARGIN}\" y1=\"{target}\" x2=\"{}\" y2=\"{target}\" stroke=\"#999\" stroke-dasharray=\"4 4\"/>\n\
         <text x=\"{}\" y=\"{}\" fill=\"#666\">target at 1,000 watchers, p99: 50 ms</text>",
        WIDTH - MARGIN,
        MARGIN + 4.0,
        target - 6.0
    );
    for (name, colour, value) in [("p50", "#1f77b4", 0), ("p99", "#d62728", 1)] {
        let at = |point: &(f64, f64, f64)| (x(point.0), y(if value == 0 { point.1 } else { point.2 }));
        let path: Vec<String> = points.iter().map(at).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>", path.join(" "));
        for point in points {
            let (x, y) = at(point);
            let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
        }
        if let Some(last) = points.last() {
            let (x, y) = at(last);
            let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>", x + 8.0, y + 4.0);
        }
    }
    svg + "</svg>\n"
}
