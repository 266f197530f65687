package dashboard

import (
	"fmt"
	"html/template"
	"strings"
	"time"

	"github.com/weir-dev/weir/controllers/usage"
)

// Plots are drawn here, as SVG: they need no script, and follow the page's colours.
const (
	plotWidth, plotHeight = 240, 40
	plotPoints            = 120
)

// point of a plot.
type point struct {
	at    time.Time
	value float64
}

// shortestPlot is what a plot shows of time while little is known.
const shortestPlot = 5 * time.Minute

// plot draws the highest values of a time that ends now, as far as they are
// known, and says them.
func plot(what string, points []point, last time.Duration, now time.Time, say func(float64) string) template.HTML {
	if len(points) > 0 {
		last = min(last, max(shortestPlot, now.Sub(points[0].at)))
	}
	highest, current := 0.0, 0.0
	buckets := make([]float64, plotPoints)
	known := make([]bool, plotPoints)
	begin := now.Add(-last)
	for _, p := range points {
		i := int(float64(p.at.Sub(begin)) / float64(last) * plotPoints)
		if i < 0 || i >= plotPoints {
			if i != plotPoints {
				continue
			}
			i--
		}
		buckets[i], known[i] = max(buckets[i], p.value), true
		highest, current = max(highest, p.value), p.value
	}
	label := fmt.Sprintf("%s in %s: now %s, at most %s", what, duration(last.Round(time.Minute)), say(current), say(highest))
	var b strings.Builder
	startPlot(&b, "", label)
	line(&b, buckets, known, highest)
	b.WriteString("</svg>")
	return template.HTML(b.String()) //nolint:gosec // numbers, and a label that is escaped
}

// ratesPlot draws admitted and limited requests of the same buckets of time.
func ratesPlot(what string, admitted, limited []int64) template.HTML {
	highest := int64(1)
	for i := range admitted {
		highest = max(highest, admitted[i], limited[i])
	}
	label := fmt.Sprintf("%s: %s admitted, %s limited", what, number(sum(admitted)), number(sum(limited)))
	var b strings.Builder
	startPlot(&b, "", label)
	for _, curve := range []struct {
		class  string
		values []int64
	}{{"", admitted}, {"limited", limited}} {
		if curve.class != "" && sum(curve.values) == 0 {
			continue
		}
		fmt.Fprintf(&b, `<g class="%s">`, curve.class)
		values, known := make([]float64, len(curve.values)), make([]bool, len(curve.values))
		for i, value := range curve.values {
			values[i], known[i] = float64(value), true
		}
		line(&b, values, known, float64(highest))
		b.WriteString("</g>")
	}
	b.WriteString("</svg>")
	return template.HTML(b.String()) //nolint:gosec // numbers, and a label that is escaped
}

// startPlot begins a drawing of a plot's size, which a label says.
func startPlot(b *strings.Builder, class, label string) {
	label = template.HTMLEscapeString(label)
	fmt.Fprintf(b, `<svg class="plot%s" viewBox="0 0 %d %d" preserveAspectRatio="none" role="img" aria-label="%s"><title>%s</title><path class="base" d="M0 %d.5H%d"/>`,
		class, plotWidth, plotHeight, label, label, plotHeight-1, plotWidth)
}

// windowPlot draws when what counts of a limit was admitted.
func windowPlot(w usage.Window) template.HTML {
	highest := int64(1)
	for _, units := range w.Units {
		highest = max(highest, units)
	}
	window, step := duration(w.Window.Duration), duration(seconds(w.StepSeconds))
	var b strings.Builder
	startPlot(&b, " tall", fmt.Sprintf("Admitted in the last %s: %s, at most %s in %s", window, number(sum(w.Units)), number(highest), step))
	b.WriteString(`<path class="bars" d="`)
	width := float64(plotWidth) / float64(max(1, len(w.Units)))
	for i, units := range w.Units {
		if units > 0 {
			height := max(1, float64(units)/float64(highest)*(plotHeight-5))
			fmt.Fprintf(&b, "M%.1f %dv%.1fh%.1fv%.1fz", float64(i)*width+width/8, plotHeight-1, -height, width*3/4, height)
		}
	}
	b.WriteString(`"/></svg>`)
	return template.HTML(b.String()) //nolint:gosec // numbers, and a label that is escaped
}

// leftPlot draws what remains of a limit from now on, if nobody asks: the steps in
// which its units are free again.
func leftPlot(limit usage.Limit, w usage.Window, now time.Time) template.HTML {
	var b strings.Builder
	window, left := max(w.Window.Duration, 1), float64(limit.Remaining)
	startPlot(&b, " tall", fmt.Sprintf("Left in the next %s, if nothing is asked: %s now, %s in the end", duration(window), number(limit.Remaining), number(limit.Requests-w.Reserved)))
	height := func() float64 {
		return plotHeight - 1 - min(left, float64(limit.Requests))/float64(max(1, limit.Requests))*(plotHeight-5)
	}
	path := fmt.Sprintf("M0 %.1f", height())
	for i, units := range w.Units {
		if units > 0 {
			frees := endOf(&w, i).Add(window).Sub(now)
			left += float64(units)
			path += fmt.Sprintf("H%.1fV%.1f", min(max(0, float64(frees)/float64(window)), 1)*plotWidth, height())
		}
	}
	path += fmt.Sprintf("H%d", plotWidth)
	fmt.Fprintf(&b, `<path class="area" d="%sV%dH0Z"/><path class="line" d="%s"/></svg>`, path, plotHeight, path)
	return template.HTML(b.String()) //nolint:gosec // numbers, and a label that is escaped
}

func sum(values []int64) (total int64) {
	for _, value := range values {
		total += value
	}
	return total
}

// line draws what is known; over short gaps it goes on, after longer ones it
// begins anew.
func line(b *strings.Builder, buckets []float64, known []bool, highest float64) {
	const gap = 3
	var runs [][][2]float64
	last := -gap - 1
	for i, value := range buckets {
		if !known[i] {
			continue
		}
		x := float64(i) * plotWidth / float64(max(1, len(buckets)-1))
		y := float64(plotHeight - 1)
		if highest > 0 {
			y -= value / highest * (plotHeight - 5)
		}
		if i-last > gap {
			runs = append(runs, nil)
		}
		runs[len(runs)-1] = append(runs[len(runs)-1], [2]float64{x, y})
		last = i
	}
	for _, run := range runs {
		var path strings.Builder
		for i, p := range run {
			fmt.Fprintf(&path, "%c%.1f %.1f", "ML"[min(i, 1)], p[0], p[1])
		}
		if len(run) == 1 {
			path.WriteString("h1.5")
		}
		fmt.Fprintf(b, `<path class="area" d="%sV%dH%.1fZ"/><path class="line" d="%s"/>`, path.String(), plotHeight, run[0][0], path.String())
	}
}
