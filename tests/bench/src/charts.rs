//! Pictures of the results.

use std::path::Path;

use plotters::prelude::*;

use crate::Result;
use crate::results::Curve;

const OURS: RGBColor = RGBColor(38, 110, 190);
const OTHERS: RGBColor = RGBColor(150, 150, 150);
const LINES: [RGBColor; 3] = [OURS, RGBColor(200, 90, 40), RGBColor(70, 140, 70)];

/// Bars, one below the other: name, value, whether it is one of this project's filters.
pub(crate) fn bars(path: &Path, title: &str, unit: &str, bars: &[(String, f64, bool)]) -> Result<()> {
    let (row, left, width) = (24, 330, 900);
    let count = i32::try_from(bars.len())?;
    let area = SVGBackend::new(path, (width, u32::try_from(row * count + 60)?)).into_drawing_area();
    area.fill(&WHITE)?;
    let text = |size: u32| ("sans-serif", size).into_font().color(&BLACK);
    area.draw(&Text::new(title.to_owned(), (10, 12), text(18)))?;
    let most = bars.iter().map(|(_, value, _)| *value).fold(1.0, f64::max);
    for (n, (name, value, ours)) in bars.iter().enumerate() {
        let top = 45 + row * i32::try_from(n)?;
        #[allow(clippy::cast_possible_truncation)]
        let length = (value.max(0.0) / most * 440.0) as i32;
        let color = if *ours { OURS } else { OTHERS };
        area.draw(&Text::new(name.clone(), (10, top + 2), text(14)))?;
        area.draw(&Rectangle::new([(left, top), (left + length.max(1), top + 16)], color.filled()))?;
        area.draw(&Text::new(format!("{value:.1} {unit}"), (left + length + 8, top + 2), text(14)))?;
    }
    area.present()?;
    Ok(())
}

/// The lines of a curve over a logarithmic number.
pub(crate) fn curve(path: &Path, curve: &Curve) -> Result<()> {
    let area = SVGBackend::new(path, (700, 360)).into_drawing_area();
    area.fill(&WHITE)?;
    let points = || curve.lines.iter().flat_map(|line| &line.points);
    // A logarithm has no zero.
    let place = |x: f64| x.max(1.0);
    let first = points().map(|point| place(point.0)).fold(f64::INFINITY, f64::min);
    let last = points().map(|point| place(point.0)).fold(first * 1.1, f64::max);
    let highest = points().map(|point| point.1).fold(1.0, f64::max) * 1.15;
    let mut chart = ChartBuilder::on(&area)
        .caption(format!("{} by {}", curve.unit, curve.of), ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(34)
        .y_label_area_size(60)
        .build_cartesian_2d((first..last).log_scale(), 0.0..highest)?;
    chart.configure_mesh().x_desc(curve.of.as_str()).y_desc(curve.unit.as_str()).draw()?;
    for (line, color) in curve.lines.iter().zip(LINES.iter().cycle()) {
        let points: Vec<(f64, f64)> = line.points.iter().map(|(x, y)| (place(*x), *y)).collect();
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, color.filled())))?;
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(line.name.clone())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw()?;
    area.present()?;
    Ok(())
}
