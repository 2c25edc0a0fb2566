//! The picture of a simulation: what each instance had to do, and how many there were, over time; policies side by side.
//!
//! It is drawn in the colours of a light page. A style sheet in the picture itself puts others in their place where the reader's
//! page is dark.

use std::ops::Range;

use jiff::Timestamp;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::autoscale::metric::number;
use crate::autoscale::simulate::{Run, Step};

/// A simulation and what its policy is called.
pub struct Panel<'a> {
    /// The policy.
    pub name: String,
    /// How it went.
    pub run: &'a Run,
}

/// A colour on a light page, and the one in its place on a dark one.
struct Ink {
    light: RGBColor,
    dark: &'static str,
}

const PAPER: Ink = Ink {
    light: RGBColor(255, 255, 255),
    dark: "#0d1117",
};
const TEXT: Ink = Ink {
    light: RGBColor(31, 35, 40),
    dark: "#e6edf3",
};
const FAINT: Ink = Ink {
    light: RGBColor(216, 222, 228),
    dark: "#30363d",
};
const BAND: Ink = Ink {
    light: RGBColor(238, 242, 246),
    dark: "#1b222c",
};
const LOAD: Ink = Ink {
    light: RGBColor(9, 105, 218),
    dark: "#58a6ff",
};
const LIMIT: Ink = Ink {
    light: RGBColor(207, 34, 46),
    dark: "#ff7b72",
};
const CAPACITY: Ink = Ink {
    light: RGBColor(26, 127, 55),
    dark: "#3fb950",
};
const WANTED: Ink = Ink {
    light: RGBColor(154, 103, 0),
    dark: "#d29922",
};
const SERVING: Ink = Ink {
    light: RGBColor(130, 80, 223),
    dark: "#bc8cff",
};
const INKS: [&Ink; 9] = [
    &PAPER, &TEXT, &FAINT, &BAND, &LOAD, &LIMIT, &CAPACITY, &WANTED, &SERVING,
];

/// Width of one policy's column, and heights, in pixels.
const WIDTH: u32 = 660;
const HEADER: u32 = 64;
const LOAD_CHART: u32 = 170;
const CHART: u32 = 220;

/// Parts of the time that are told apart: more than there are pixels would only make the file larger.
const BUCKETS: usize = 600;

type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Times, RangedCoordf64>>;

/// Times of the x axis, marked where clocks show round ones.
#[derive(Clone)]
struct Times(Range<i64>);

/// Seconds between two marks, from the smallest.
const MARKS: [i64; 12] = [
    60, 300, 900, 1_800, 3_600, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800, 2_592_000,
];

/// Most marks on the axis: so many have room for their text.
const MOST_MARKS: i64 = 8;

impl Times {
    fn mark(&self) -> i64 {
        let span = self.0.end - self.0.start;
        let fits = |mark: &&i64| span / **mark <= MOST_MARKS;
        MARKS.iter().find(fits).copied().unwrap_or(MARKS[MARKS.len() - 1])
    }
}

impl Ranged for Times {
    type FormatOption = DefaultFormatting;
    type ValueType = i64;

    fn map(&self, value: &i64, limit: (i32, i32)) -> i32 {
        let span = (self.0.end - self.0.start).max(1);
        let width = i64::from(limit.1 - limit.0);
        let offset = (value - self.0.start).saturating_mul(width) / span;
        limit.0 + i32::try_from(offset).unwrap_or(0)
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<i64> {
        let mark = self.mark();
        let first = self.0.start.div_euclid(mark) * mark;
        (first..=self.0.end)
            .step_by(usize::try_from(mark).unwrap_or(1))
            .filter(|at| *at >= self.0.start)
            .collect()
    }

    fn range(&self) -> Range<i64> {
        self.0.clone()
    }
}

/// The picture as an SVG document.
///
/// # Errors
/// A sentence, if it can't be drawn.
pub fn svg(panels: &[Panel<'_>]) -> Result<String, String> {
    let mut text = String::new();
    let columns = u32::try_from(panels.len().max(1)).unwrap_or(1);
    {
        let size = (WIDTH * columns, HEADER + LOAD_CHART + 2 * CHART);
        let canvas = SVGBackend::with_string(&mut text, size).into_drawing_area();
        draw(&canvas, panels).map_err(|e| format!("drawing the picture: {e}"))?;
        canvas
            .present()
            .map_err(|e| format!("drawing the picture: {e}"))?;
    }
    Ok(themed(&text))
}

/// Puts the style sheet for dark pages into the picture, and lets it shrink with its page.
fn themed(svg: &str) -> String {
    use std::fmt::Write as _;
    let mut style =
        String::from("<style>text{font-variant-numeric:tabular-nums}@media (prefers-color-scheme:dark){");
    for ink in INKS {
        let RGBColor(r, g, b) = ink.light;
        let _ = write!(
            style,
            "[fill=\"#{r:02X}{g:02X}{b:02X}\"]{{fill:{0}}}[stroke=\"#{r:02X}{g:02X}{b:02X}\"]{{stroke:{0}}}",
            ink.dark
        );
    }
    style.push_str("}</style>");
    match svg.find('>') {
        Some(end) => format!("{}{style}{}", &svg[..=end], &svg[end + 1..]),
        None => svg.to_owned(),
    }
}

type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn draw<'a>(canvas: &Canvas<'a>, panels: &[Panel<'_>]) -> Drawn<'a> {
    canvas.fill(&PAPER.light)?;
    let columns = canvas.split_evenly((1, panels.len().max(1)));
    // One scale for all: what is higher is more.
    let steps = || panels.iter().flat_map(|p| &p.run.steps);
    let each = steps().filter_map(|s| s.each.into_iter().chain(s.threshold).reduce(f64::max));
    let highest_each = each.fold(0.0, f64::max);
    let highest = steps().map(|s| s.capacity.max(s.recommended)).max().unwrap_or(0);
    for (column, panel) in columns.iter().zip(panels) {
        let (header, rest) = column.split_vertically(HEADER);
        let (first, rest) = rest.split_vertically(LOAD_CHART);
        let charts = rest.split_evenly((2, 1));
        head(&header, panel)?;
        let Some(times) = times(&panel.run.steps) else {
            continue;
        };
        all(&first, panel.run, times.clone())?;
        loads(&charts[0], panel.run, times.clone(), top(highest_each))?;
        counts(&charts[1], panel.run, times, top(f64::from(highest)))?;
    }
    Ok(())
}

/// A round number somewhat above `highest`.
fn top(highest: f64) -> f64 {
    if highest <= 0.0 {
        return 1.0;
    }
    highest * 1.12
}

fn times(steps: &[Step]) -> Option<Times> {
    let (first, last) = (steps.first()?.at.as_second(), steps.last()?.at.as_second());
    Some(Times(first..last.max(first + 60)))
}

fn font(size: i32, ink: &Ink) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&ink.light)
}

/// The policy's name, what it comes to, and what the lines are.
fn head<'a>(area: &Canvas<'a>, panel: &Panel<'_>) -> Drawn<'a> {
    let sum = &panel.run.summary;
    let share = |seconds: f64| 100.0 * seconds / sum.seconds.max(1.0);
    area.draw(&Text::new(panel.name.clone(), (14, 10), font(17, &TEXT)))?;
    let line = format!(
        "{} to {} instances, {} instance hours, {} out, {} in, over the threshold {} % of the time",
        sum.fewest,
        sum.most,
        number(sum.instance_hours),
        sum.outs,
        sum.ins,
        number(share(sum.seconds_over))
    );
    area.draw(&Text::new(line, (14, 36), font(13, &TEXT)))
}

/// Text, right-aligned at `x`, beside a short line of its colour. Returns where the next one ends.
fn key<'a>(
    area: &Canvas<'a>,
    x: i32,
    text: &str,
    ink: &Ink,
) -> Result<i32, DrawingAreaErrorKind<std::io::Error>> {
    let style = font(13, ink).pos(Pos::new(HPos::Right, VPos::Top));
    // Without a font at hand its width is an estimate that is never too small.
    let width = i32::try_from(text.chars().count() * 8).unwrap_or(0);
    area.draw(&Text::new(text.to_owned(), (x, 6), style))?;
    Ok(x - width - 18)
}

/// What the whole set had to do.
fn all<'a>(area: &Canvas<'a>, run: &Run, times: Times) -> Drawn<'a> {
    let highest = run.steps.iter().filter_map(|s| s.load).fold(0.0, f64::max);
    let title = format!("{} of all instances", run.metric);
    let mut chart = frame(area, &title, times, top(highest), &|value| run.unit.show(*value))?;
    for part in thinned(&run.steps, |s| s.load) {
        chart.draw_series(LineSeries::new(part, TEXT.light.stroke_width(1)))?;
    }
    Ok(())
}

/// Times in which each instance had more to do than the threshold.
fn over(steps: &[Step]) -> Vec<(i64, i64)> {
    let mut spans: Vec<(i64, i64)> = Vec::new();
    for pair in steps.windows(2) {
        let is_over = pair[0]
            .each
            .zip(pair[0].threshold)
            .is_some_and(|(each, limit)| each > limit);
        let (begin, end) = (pair[0].at.as_second(), pair[1].at.as_second());
        match spans.last_mut() {
            Some(last) if is_over && last.1 == begin => last.1 = end,
            _ if is_over => spans.push((begin, end)),
            _ => {}
        }
    }
    spans
}

/// What each instance had to do.
fn loads<'a>(area: &Canvas<'a>, run: &Run, times: Times, top: f64) -> Drawn<'a> {
    let title = format!("{} of each instance", run.metric);
    let mut chart = frame(area, &title, times, top, &|value| run.unit.show(*value))?;
    let right = i32::try_from(WIDTH).unwrap_or(0) - 18;
    let next = key(area, right, "threshold", &LIMIT)?;
    let next = key(area, next, "load", &LOAD)?;
    key(area, next, "over it", &LIMIT)?;
    let shade = |(begin, end)| Rectangle::new([(begin, 0.0), (end, top)], LIMIT.light.mix(0.22).filled());
    chart.draw_series(over(&run.steps).into_iter().map(shade))?;
    let limits = stairs(&run.steps, |s| s.threshold);
    for limit in limits {
        chart.draw_series(LineSeries::new(limit, LIMIT.light.stroke_width(1)))?;
    }
    for part in thinned(&run.steps, |s| s.each) {
        chart.draw_series(LineSeries::new(part, LOAD.light.stroke_width(1)))?;
    }
    Ok(())
}

/// How many instances there were.
fn counts<'a>(area: &Canvas<'a>, run: &Run, times: Times, top: f64) -> Drawn<'a> {
    let mut chart = frame(area, "instances", times, top, &|value| number(*value))?;
    let right = i32::try_from(WIDTH).unwrap_or(0) - 18;
    let next = key(area, right, "capacity", &CAPACITY)?;
    let next = key(area, next, "serving", &SERVING)?;
    key(area, next, "asked for", &WANTED)?;
    let whole = |n: u32| Some(f64::from(n));
    for (value, ink, width) in [
        (
            &(|s: &Step| whole(s.recommended)) as &dyn Fn(&Step) -> Option<f64>,
            &WANTED,
            1,
        ),
        (&|s: &Step| whole(s.serving), &SERVING, 1),
        (&|s: &Step| whole(s.capacity), &CAPACITY, 2),
    ] {
        for part in stairs(&run.steps, value) {
            chart.draw_series(LineSeries::new(part, ink.light.stroke_width(width)))?;
        }
    }
    Ok(())
}

/// Axes, a grid and a title.
fn frame<'a, 'b>(
    area: &'b Canvas<'a>,
    title: &str,
    times: Times,
    top: f64,
    show: &dyn Fn(&f64) -> String,
) -> Result<Chart<'b, 'a>, DrawingAreaErrorKind<std::io::Error>> {
    area.draw(&Text::new(title.to_owned(), (14, 6), font(13, &TEXT)))?;
    let mark = times.mark();
    let mut chart = ChartBuilder::on(area)
        .margin_top(28)
        .margin_right(22)
        .margin_bottom(6)
        .x_label_area_size(28)
        .y_label_area_size(64)
        .build_cartesian_2d(times, 0.0..top)?;
    chart
        .configure_mesh()
        .bold_line_style(FAINT.light)
        .light_line_style(TRANSPARENT)
        .axis_style(FAINT.light)
        .label_style(font(13, &TEXT))
        .x_labels(7)
        .y_labels(6)
        .x_label_formatter(&|second| clock(*second, mark))
        .y_label_formatter(&show)
        .draw()?;
    Ok(chart)
}

/// A moment on the axis: times of day, and the day where one begins.
fn clock(second: i64, mark: i64) -> String {
    let at = Timestamp::from_second(second).unwrap_or(Timestamp::MIN);
    let is_midnight = second.rem_euclid(86_400) == 0;
    let form = if is_midnight || mark >= 86_400 {
        "%a %d %b"
    } else {
        "%H:%M"
    };
    at.strftime(form).to_string()
}

/// A line that goes from value to value in steps, in parts where it has none in between.
fn stairs(steps: &[Step], value: impl Fn(&Step) -> Option<f64>) -> Vec<Vec<(i64, f64)>> {
    let mut parts: Vec<Vec<(i64, f64)>> = Vec::new();
    let mut last: Option<f64> = None;
    for step in steps {
        let (at, now) = (step.at.as_second(), value(step));
        match (last, now) {
            (None, Some(now)) => parts.push(vec![(at, now)]),
            (Some(before), Some(now)) if before.to_bits() != now.to_bits() => {
                if let Some(part) = parts.last_mut() {
                    part.extend([(at, before), (at, now)]);
                }
            }
            (Some(before), None) => {
                if let Some(part) = parts.last_mut() {
                    part.push((at, before));
                }
            }
            _ => {}
        }
        last = now;
    }
    // To the end of the time, also if nothing has changed.
    if let (Some(part), Some(value), Some(step)) = (parts.last_mut(), last, steps.last()) {
        part.push((step.at.as_second(), value));
    }
    parts
}

/// A line with no more points than can be seen: of each part of the time its lowest and its highest, in their order.
fn thinned(steps: &[Step], value: impl Fn(&Step) -> Option<f64>) -> Vec<Vec<(i64, f64)>> {
    let size = steps.len().div_ceil(BUCKETS).max(1);
    let mut parts: Vec<Vec<(i64, f64)>> = vec![Vec::new()];
    for bucket in steps.chunks(size) {
        let known: Vec<(i64, f64)> = (bucket.iter())
            .filter_map(|s| Some((s.at.as_second(), value(s)?)))
            .collect();
        let low = known.iter().copied().reduce(|a, b| if b.1 < a.1 { b } else { a });
        let high = known.iter().copied().reduce(|a, b| if b.1 > a.1 { b } else { a });
        let (Some(low), Some(high)) = (low, high) else {
            parts.push(Vec::new());
            continue;
        };
        let part = parts.last_mut();
        if let Some(part) = part {
            part.extend(match low.0.cmp(&high.0) {
                std::cmp::Ordering::Less => vec![low, high],
                std::cmp::Ordering::Greater => vec![high, low],
                std::cmp::Ordering::Equal => vec![low],
            });
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autoscale::metric::Unit;
    use crate::autoscale::simulate::Summary;

    fn run(minutes: i64) -> Run {
        let steps = (0..minutes).map(|minute| Step {
            at: Timestamp::from_second(1_795_392_000 + 60 * minute).unwrap(),
            load: Some(100.0),
            each: (minute % 1000 != 500).then_some(if minute % 600 < 300 { 40.0 } else { 90.0 }),
            threshold: Some(75.0),
            capacity: if minute % 600 < 300 { 3 } else { 5 },
            serving: 3,
            recommended: 4,
            min: 1,
            max: 9,
        });
        Run {
            summary: Summary::default(),
            steps: steps.collect(),
            decisions: Vec::new(),
            metric: "host.cpu".to_owned(),
            unit: Unit::Percent,
        }
    }

    fn drawn(minutes: i64, columns: usize) -> String {
        let run = run(minutes);
        let panel = |n: usize| Panel {
            name: format!("<policy {n}> & \"more\""),
            run: &run,
        };
        svg(&(0..columns).map(panel).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_picture_is_whole_and_says_what_its_lines_are() {
        let svg = drawn(10_080, 2);
        let document = roxmltree::Document::parse(&svg).unwrap();
        let texts: Vec<&str> = (document.descendants())
            .filter(|n| n.has_tag_name("text"))
            .filter_map(|n| n.text().map(str::trim))
            .collect();
        for text in [
            "<policy 0> & \"more\"",
            "<policy 1> & \"more\"",
            "host.cpu of each instance",
            "threshold",
            "capacity",
            "asked for",
            "40 %",
            "Wed 25 Nov",
        ] {
            assert!(texts.contains(&text), "{text} is not in {texts:?}");
        }
        assert_eq!(document.root_element().attribute("width"), Some("1320"));
        assert!(svg.len() < 300_000, "{} bytes for a week", svg.len());
    }

    #[test]
    fn every_text_is_large_enough_to_be_read() {
        let svg = drawn(120, 1);
        let document = roxmltree::Document::parse(&svg).unwrap();
        for text in document.descendants().filter(|n| n.has_tag_name("text")) {
            // The size is in units of an em of ten pixels at that font.
            let size: f64 = text.attribute("font-size").unwrap().parse().unwrap();
            assert!(size >= 10.0, "{:?} has {size}", text.text());
        }
    }

    /// What WCAG asks of text: a contrast of 4.5, on light pages and on dark ones.
    #[test]
    fn every_colour_of_text_stands_out_on_both_pages() {
        let light = |ink: &Ink| {
            (
                f64::from(ink.light.0),
                f64::from(ink.light.1),
                f64::from(ink.light.2),
            )
        };
        let dark = |ink: &Ink| {
            let part = |i: usize| f64::from(u8::from_str_radix(&ink.dark[i..i + 2], 16).unwrap());
            (part(1), part(3), part(5))
        };
        let luminance = |(r, g, b): (f64, f64, f64)| {
            let linear = |c: f64| match c / 255.0 {
                c if c <= 0.03928 => c / 12.92,
                c => ((c + 0.055) / 1.055_f64).powf(2.4),
            };
            0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b)
        };
        let contrast = |a, b| {
            let (a, b) = (luminance(a) + 0.05, luminance(b) + 0.05);
            f64::max(a, b) / f64::min(a, b)
        };
        for ink in [&TEXT, &LOAD, &LIMIT, &CAPACITY, &WANTED, &SERVING] {
            assert!(contrast(light(ink), light(&PAPER)) >= 4.5, "{:?}", ink.light);
            assert!(contrast(dark(ink), dark(&PAPER)) >= 4.5, "{}", ink.dark);
        }
    }

    /// Each colour that is drawn has one in its place on a dark page.
    #[test]
    fn no_colour_is_left_as_it_is_on_a_dark_page() {
        let svg = drawn(1_200, 1);
        let style = svg.split("</style>").next().unwrap();
        let document = roxmltree::Document::parse(&svg).unwrap();
        for node in document.descendants().filter(roxmltree::Node::is_element) {
            for name in ["fill", "stroke"] {
                let Some(colour) = node.attribute(name).filter(|c| c.starts_with('#')) else {
                    continue;
                };
                let rule = format!("[{name}=\"{colour}\"]");
                let is_unseen = node.attribute("opacity") == Some("0");
                assert!(
                    is_unseen || style.contains(&rule),
                    "{rule} is missing, for {node:?}"
                );
            }
        }
    }

    #[test]
    fn marks_of_the_axis_are_round_times() {
        for (minutes, labels) in [
            (30, "00:05"),
            (300, "01:00"),
            (1440, "03:00"),
            (10_080, "Wed 25 Nov"),
        ] {
            let svg = drawn(minutes, 1);
            assert!(svg.contains(labels), "{minutes} minutes: {labels}");
        }
    }
}
