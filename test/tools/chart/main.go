// Command chart draws the ratios of docs/performance.json, as `make bench` measures
// them, as an SVG of bars. The same figures give the same bytes.
//
//	chart FIGURES.json CHART.svg
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"image/color"
	"os"
	"regexp"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

type bar struct{ label, item, name, against string }

var bars = []bar{
	{"own ENI, one pod at a time", "(a)", "exclusive ADD + DEL, eni-ipam", "host-device, host-local"},
	{"own ENI, 8 pods at once", "(h)", "exclusive ADD + DEL, eni-ipam", "host-device, host-local"},
	{"own ENI, 100 pods at once", "(i)", "exclusive, eni-ipam", "host-device, host-local"},
	{"shared ENI, one pod at a time", "(c)", "shared macvlan ADD + DEL, eni-ipam", "macvlan alone, host-local"},
	{"shared ENI, 8 pods at once", "(h)", "shared macvlan ADD + DEL, eni-ipam", "macvlan alone, host-local"},
	{"start-up of the plugin", "(d)", "VERSION", "host-device"},
	{"peak memory of the plugin", "(g)", "exclusive ADD, eni-ipam", "host-device, host-local"},
}

type row struct {
	Item, Name, Against     string
	OursMedian, OtherMedian float64
}

var (
	ink   = color.RGBA{R: 0x1f, G: 0x23, B: 0x28, A: 0xff}
	faint = color.RGBA{R: 0xd0, G: 0xd7, B: 0xde, A: 0xff}
	blue  = color.RGBA{R: 0x0b, G: 0x62, B: 0xc4, A: 0xff}
	amber = color.RGBA{R: 0xb3, G: 0x5c, B: 0x00, A: 0xff}
)

const (
	width, height = 23 * vg.Centimeter, 10 * vg.Centimeter
	margin        = 0.5 * vg.Centimeter
	thick         = 0.62 * vg.Centimeter
	most          = 1.6 // of the axis; a ratio above it is an error
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: chart FIGURES.json CHART.svg")
		os.Exit(2)
	}
	if err := chart(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintf(os.Stderr, "chart: %v\n", err)
		os.Exit(1)
	}
}

func chart(figures, to string) error {
	data, err := os.ReadFile(figures)
	if err != nil {
		return err
	}
	var report struct{ Rows []row }
	if err := json.Unmarshal(data, &report); err != nil {
		return fmt.Errorf("read %s: %w", figures, err)
	}
	values, err := ratios(report.Rows)
	if err != nil {
		return fmt.Errorf("read %s: %w", figures, err)
	}
	svg, err := drawn(values)
	if err != nil {
		return err
	}
	return os.WriteFile(to, svg, 0o644)
}

func ratios(rows []row) (out plotter.Values, err error) {
	for _, b := range bars {
		found := false
		for _, r := range rows {
			if len(r.Item) >= len(b.item) && r.Item[:len(b.item)] == b.item && r.Name == b.name && r.Against == b.against && r.OtherMedian > 0 {
				out, found = append(out, r.OursMedian/r.OtherMedian), true
				break
			}
		}
		switch {
		case !found:
			out = append(out, 0)
			err = errors.Join(err, fmt.Errorf("no row %s %s against %s", b.item, b.name, b.against))
		case out[len(out)-1] > most:
			err = errors.Join(err, fmt.Errorf("row %s %s: ratio %.2f is beyond the axis, %.1f", b.item, b.name, out[len(out)-1], most))
		}
	}
	return out, err
}

func drawn(values plotter.Values) ([]byte, error) {
	p := plot.New()
	p.Title.Text = "Time and memory of multi-eni, as a share of the reference plugin's (shorter is better)"
	p.Title.TextStyle.Font = font.Font{Variant: "Sans", Size: 14}
	p.Title.TextStyle.Color = ink
	p.Title.Padding = 0.3 * vg.Centimeter
	p.X.Min, p.X.Max = 0, most
	p.X.Label.Padding = 0.2 * vg.Centimeter
	p.X.Label.Text = "1.0 is host-device with host-local, or macvlan with host-local where the ENI is shared"
	p.Y.Min, p.Y.Max = -0.6, float64(len(bars))-0.4
	for _, style := range []*draw.TextStyle{&p.X.Label.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label} {
		style.Font = font.Font{Variant: "Sans", Size: 12}
		style.Color = ink
	}
	p.X.LineStyle.Color, p.X.Tick.LineStyle.Color = faint, faint
	p.Y.LineStyle.Width, p.Y.Tick.LineStyle.Width, p.Y.Tick.Length = 0, 0, 0
	p.X.Tick.Marker = plot.ConstantTicks{{Value: 0, Label: "0"}, {Value: 0.5, Label: "0.5"}, {Value: 1, Label: "1.0"}, {Value: 1.5, Label: "1.5"}}
	ticks := make(plot.ConstantTicks, 0, len(bars))
	for i, b := range bars {
		y := float64(len(bars) - 1 - i)
		ticks = append(ticks, plot.Tick{Value: y, Label: b.label})
		fill := blue
		if values[i] > 1.005 {
			fill = amber
		}
		one, err := plotter.NewBarChart(plotter.Values{values[i]}, thick)
		if err != nil {
			return nil, err
		}
		one.Horizontal, one.XMin, one.Color, one.LineStyle.Width = true, y, fill, 0
		label, err := plotter.NewLabels(plotter.XYLabels{XYs: plotter.XYs{{X: values[i], Y: y}}, Labels: []string{fmt.Sprintf("%.2f", values[i])}})
		if err != nil {
			return nil, err
		}
		label.Offset = vg.Point{X: -0.2 * vg.Centimeter, Y: 0.07 * vg.Centimeter}
		style := &label.TextStyle[0]
		style.Font, style.Color, style.XAlign, style.YAlign = font.Font{Variant: "Sans", Size: 12}, color.White, draw.XRight, draw.YCenter
		p.Add(one, label)
	}
	p.Y.Tick.Marker = ticks
	reference, err := plotter.NewLine(plotter.XYs{{X: 1, Y: p.Y.Min}, {X: 1, Y: p.Y.Max}})
	if err != nil {
		return nil, err
	}
	reference.Color, reference.Dashes, reference.Width = ink, []vg.Length{vg.Points(4), vg.Points(3)}, vg.Points(1.2)
	p.Add(reference)

	canvas := vgsvg.NewWith(vgsvg.UseWH(width, height), vgsvg.EmbedFonts(false))
	page := draw.New(canvas)
	page.SetColor(color.White)
	page.Fill(page.Rectangle.Path())
	p.BackgroundColor = color.Transparent
	p.Draw(draw.Crop(page, margin, -margin, margin, -margin))
	var b bytes.Buffer
	if _, err := canvas.WriteTo(&b); err != nil {
		return nil, err
	}
	// Fonts of browsers replace the one with which the text was measured.
	return family.ReplaceAll(b.Bytes(), []byte("font-family:'Liberation Sans','Helvetica Neue',Arial,sans-serif")), nil
}

var family = regexp.MustCompile(`font-family:[^;"]*`)
