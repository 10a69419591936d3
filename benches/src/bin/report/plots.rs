//! Plots by the size of the mesh, on two logarithmic axes.
//!
//! They are shown on light and on dark pages: no background, and colours in the middle.

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::found::{Found, title};
use crate::show::{Unit, count};

/// Text and axes.
const GREY: RGBColor = RGBColor(128, 128, 128);
/// A colour for each way; more ways begin again.
const COLOURS: [RGBColor; 8] = [
    RGBColor(222, 96, 32),
    RGBColor(128, 128, 128),
    RGBColor(190, 100, 190),
    RGBColor(48, 136, 224),
    RGBColor(32, 160, 112),
    RGBColor(184, 148, 24),
    RGBColor(208, 80, 112),
    RGBColor(96, 152, 160),
];
const SIZE: (u32, u32) = (760, 400);
const LEGEND_WIDTH: i32 = 190;
/// Ways stand beside one another, so that those alike are all seen: so many decades of the axis.
const BESIDE: f64 = 0.04;

/// What is drawn.
#[derive(Clone, Copy, Debug)]
struct Plot {
    file: &'static str,
    title: &'static str,
    field: &'static str,
    unit: Unit,
}

const PLOTS: [Plot; 4] = [
    Plot {
        file: "heap.svg",
        title: "Config heap of a sidecar, three services called",
        field: "heap_bytes",
        unit: Unit::Bytes,
    },
    Plot {
        file: "bytes.svg",
        title: "Config sent to a sidecar, three services called",
        field: "bytes_to_sidecar",
        unit: Unit::Bytes,
    },
    Plot {
        file: "ready.svg",
        title: "Time until a sidecar is ready",
        field: "ready_ms",
        unit: Unit::Milliseconds,
    },
    Plot {
        file: "first-call.svg",
        title: "First call over HTTP (median)",
        field: "first_call_ms.p50",
        unit: Unit::Milliseconds,
    },
];

/// A plot as it is written.
#[derive(Debug)]
pub(crate) struct Drawn {
    pub(crate) file: &'static str,
    pub(crate) title: &'static str,
    pub(crate) svg: String,
}

/// One way's line.
#[derive(Debug)]
struct Line {
    title: String,
    colour: RGBColor,
    points: Vec<Point>,
}

/// A median, and the least and the most if they are known.
#[derive(Clone, Copy, Debug)]
struct Point {
    services: f64,
    /// Beside that, so that other ways have room.
    x: f64,
    y: f64,
    spread: Option<(f64, f64)>,
}

/// Those of which anything was measured.
///
/// # Errors
/// The library's.
pub(crate) fn all(found: &Found) -> Result<Vec<Drawn>> {
    let mut drawn = Vec::new();
    for plot in PLOTS {
        let lines = lines(found, plot);
        if !lines.is_empty() {
            drawn.push(Drawn {
                file: plot.file,
                title: plot.title,
                svg: draw(plot, &lines)?,
            });
        }
    }
    Ok(drawn)
}

/// The name of every file that there may be.
pub(crate) fn files() -> impl Iterator<Item = &'static str> {
    PLOTS.into_iter().map(|plot| plot.file)
}

fn lines(found: &Found, plot: Plot) -> Vec<Line> {
    let ways = found.ways();
    let middle = (ways.len() as f64 - 1.0) / 2.0;
    let line = |(at, way): (usize, &&str)| {
        let beside = 10_f64.powf((at as f64 - middle) * BESIDE);
        let points = found.sizes.iter().filter_map(|size| {
            // A logarithm has no zero.
            let y = size.get(way, plot.field).filter(|y| *y > 0.0)?;
            let services = f64::from(size.services);
            Some(Point {
                services,
                x: services * beside,
                y,
                spread: size
                    .spread(way, plot.field)
                    .filter(|(least, _)| *least > 0.0),
            })
        });
        Line {
            title: title(way).replace('`', ""),
            colour: COLOURS[at % COLOURS.len()],
            points: points.collect(),
        }
    };
    let lines = ways.iter().enumerate().map(line);
    lines.filter(|line| !line.points.is_empty()).collect()
}

fn draw(plot: Plot, lines: &[Line]) -> Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let width = i32::try_from(SIZE.0)?;
        let (left, right) = root.split_horizontally(width - LEGEND_WIDTH);
        chart(plot, lines, &left)?;
        legend(lines, &right)?;
        root.present()?;
    }
    Ok(svg)
}

fn text(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&GREY)
}

fn chart(plot: Plot, lines: &[Line], area: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<()> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let sizes = around(points().map(|point| point.x), 1.5);
    let heights = points().flat_map(|point| {
        let (least, most) = point.spread.unwrap_or((point.y, point.y));
        [point.y, least, most]
    });
    let heights = around(heights, 1.6);
    let steps = steps(heights.clone());
    let services = services(lines);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .caption(plot.title, text(18))
        .x_label_area_size(44)
        .y_label_area_size(76)
        .build_cartesian_2d(
            sizes.log_scale().with_key_points(services),
            heights.log_scale().with_key_points(steps),
        )?;
    chart
        .configure_mesh()
        .axis_style(GREY.mix(0.7))
        .bold_line_style(GREY.mix(0.3))
        .light_line_style(TRANSPARENT)
        .label_style(text(13))
        .axis_desc_style(text(13))
        .x_desc("services in the mesh")
        .x_label_formatter(&|x| count(*x))
        .y_label_formatter(&|y| plot.unit.show(*y))
        .draw()?;
    for line in lines {
        let colour = line.colour;
        let all = line.points.iter();
        chart.draw_series(LineSeries::new(
            all.clone().map(|point| (point.x, point.y)),
            colour.mix(0.6).stroke_width(1),
        ))?;
        let spread = |point: &Point| {
            let (least, most) = point.spread?;
            let ends = vec![(point.x, least), (point.x, most)];
            Some(PathElement::new(ends, colour.stroke_width(2)))
        };
        chart.draw_series(all.clone().filter_map(spread))?;
        chart.draw_series(all.map(|point| Circle::new((point.x, point.y), 4, colour.filled())))?;
    }
    Ok(())
}

fn legend(lines: &[Line], area: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<()> {
    for (line, y) in lines.iter().zip((56..).step_by(24)) {
        area.draw(&Circle::new((12, y), 5, line.colour.filled()))?;
        area.draw(&Text::new(line.title.clone(), (26, y - 6), text(14)))?;
    }
    Ok(())
}

/// The sizes of the meshes that have a point, where the middle of the ways is.
fn services(lines: &[Line]) -> Vec<f64> {
    let all = lines.iter().flat_map(|line| &line.points);
    let mut all: Vec<f64> = all.map(|point| point.services).collect();
    all.sort_by(f64::total_cmp);
    all.dedup();
    all
}

/// A range with all of these in it, and some room.
fn around(values: impl Iterator<Item = f64>, room: f64) -> std::ops::Range<f64> {
    let (least, most) = values.fold((f64::MAX, f64::MIN_POSITIVE), |(least, most), value| {
        (least.min(value), most.max(value))
    });
    least / room..most * room
}

/// Where an axis is marked: at 1, 2 and 5 of each decade, or at 1 only of many.
fn steps(range: std::ops::Range<f64>) -> Vec<f64> {
    let decades = (range.end / range.start).log10();
    let marks: &[f64] = if decades > 3.0 {
        &[1.0]
    } else {
        &[1.0, 2.0, 5.0]
    };
    let (first, last) = (range.start.log10().floor(), range.end.log10().ceil());
    let decades = (first as i32..=last as i32).map(|decade| 10_f64.powi(decade));
    let all = decades.flat_map(|decade| marks.iter().map(move |mark| mark * decade));
    all.filter(|mark| range.contains(mark)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::tests::found;
    use serde_json::json;

    #[test]
    fn nothing_measured_is_nothing_drawn() {
        assert!(all(&Found::default()).unwrap().is_empty());
        let ways = json!({"plain": {"heap_bytes": 0}});
        let found = found(json!({"sizes": {"200": ways}}), None, None);
        assert!(all(&found).unwrap().is_empty());
    }

    #[test]
    fn a_plot_has_its_points_and_no_background() {
        let ways = |plain: u64| {
            json!({
                "plain": {"heap_bytes": plain, "spread": {"heap_bytes": [plain - 9, plain + 9]}},
                "on_demand": {"heap_bytes": 8_000_000},
            })
        };
        let sizes = json!({"1000": ways(180_000_000), "5000": ways(866_000_000)});
        let drawn = all(&found(json!({ "sizes": sizes }), None, None)).unwrap();
        assert_eq!(drawn.len(), 1);
        let svg = &drawn[0].svg;
        assert_eq!(drawn[0].file, "heap.svg");
        // Four points, two in the legend.
        assert_eq!(svg.matches("<circle").count(), 6, "{svg}");
        for text in ["plain Istio", "on-demand", "1,000", "5,000", "100 MB"] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
        assert!(!svg.contains("<rect"), "{svg}");
    }

    #[test]
    fn axes_are_marked_with_round_numbers() {
        assert_eq!(steps(15.0..130.0), [20.0, 50.0, 100.0]);
        assert_eq!(steps(0.5..20_000.0), [1.0, 10.0, 100.0, 1000.0, 10_000.0]);
    }
}
