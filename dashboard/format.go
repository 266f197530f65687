package dashboard

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html/template"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/weir-dev/weir/dashboard/tasks"
)

// functions of the templates.
var functions = template.FuncMap{
	"number":    number[int64],
	"count":     number[int],
	"duration":  duration,
	"ago":       ago,
	"pretty":    pretty,
	"short":     short,
	"path":      url.PathEscape,
	"arguments": arguments,
	"plural":    plural,
	"since":     since,
	"at":        func(t *time.Time) time.Time { return *t },
	"int64":     func(n int32) int64 { return int64(n) },
	"int":       func(n int64) int { return int(n) },
	"tab":       func(current, name, label string) tab { return tab{name, label, current == name} },
	"search":    func(search, what string) searchBox { return searchBox{search, what} },
	"rows":      func(all []tasks.Task, now time.Time) taskTable { return taskTable{all, now} },
	"person":    person,
	"rate":      rate,
	"percent":   percent,
	"nearly":    func(n int64) int64 { return n * 8 / 10 },
}

// What templates of parts are given.
type (
	tab struct {
		Name, Label string
		Current     bool
	}
	searchBox struct{ Search, What string }
	taskTable struct {
		Tasks []tasks.Task
		Now   time.Time
	}
)

// person is a user's name as there is room for it.
func person(name string) string {
	if account, is := strings.CutPrefix(name, "system:serviceaccount:"); is {
		return strings.Replace(account, ":", "/", 1)
	}
	return name
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// number groups digits by thousands.
func number[N int | int64](n N) string {
	text := strconv.FormatInt(int64(n), 10)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "\u202f" + text[i:] // a narrow space that does not break
	}
	return text
}

// rate of requests a second, with the digits that matter.
func rate(n float64) string {
	switch {
	case n == 0:
		return "0"
	case n < 10:
		return strconv.FormatFloat(n, 'f', 1, 64)
	}
	return number(int64(n + 0.5))
}

// percent of a whole, rounded down: 100 % is all of it.
func percent(part, whole int64) string {
	if whole <= 0 {
		return "0\u202f%"
	}
	return strconv.FormatInt(part*100/whole, 10) + "\u202f%"
}

// duration in the two units that matter.
func duration(d time.Duration) string {
	switch {
	case d <= 0:
		return "0 s"
	case d < time.Second:
		return strconv.FormatInt(max(d.Milliseconds(), 1), 10) + " ms"
	case d < 10*time.Second:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
	case d < time.Minute:
		return strconv.Itoa(int(d.Seconds())) + " s"
	case d < time.Hour:
		return strings.TrimSuffix(fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60), " 0 s")
	case d < 48*time.Hour:
		return strings.TrimSuffix(fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60), " 0 min")
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// ago is a time, which the page's script says relative to now.
func ago(t time.Time) template.HTML {
	if t.IsZero() {
		return `<span class="none">–</span>`
	}
	u := t.UTC()
	return template.HTML(fmt.Sprintf(`<time datetime="%s" title="%s">%s</time>`, //nolint:gosec // digits
		u.Format(time.RFC3339Nano), u.Format("2006-01-02 15:04:05 UTC"), u.Format("15:04:05")))
}

// since is how long ago a time was, which the page's script counts.
func since(t time.Time) template.HTML {
	return template.HTML(strings.Replace(string(ago(t)), "<time ", "<time data-since ", 1)) //nolint:gosec // digits
}

// maxNested JSON is laid out: of deeper ones most would be indentation, more than
// memory holds.
const maxNested = 20

// pretty lays JSON out; what is none, or is nested too deeply, stays as it is.
func pretty(text string) string {
	var out bytes.Buffer
	if nested(text) > maxNested || json.Indent(&out, []byte(text), "", "  ") != nil {
		return text
	}
	return out.String()
}

// nested is how deep the objects and arrays of JSON are.
func nested(text string) (deepest int) {
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			quoted = !quoted
		case quoted && c == '\\':
			i++
		case !quoted && (c == '[' || c == '{'):
			depth++
			deepest = max(deepest, depth)
		case !quoted && (c == ']' || c == '}'):
			depth--
		}
	}
	return deepest
}

// short is the beginning of a text, on one line.
func short(text string, most int) string {
	text = strings.Join(strings.Fields(text), " ")
	if characters := []rune(text); len(characters) > most {
		return string(characters[:most]) + "…"
	}
	return text
}

// with is a query with another value of one parameter, and without a cursor.
func with(query url.Values, name, value string) string {
	changed := url.Values{}
	for key, values := range query {
		if key != "from" && key != name {
			changed[key] = values
		}
	}
	if value != "" {
		changed.Set(name, value)
	}
	if len(changed) == 0 {
		return "?"
	}
	return "?" + changed.Encode()
}
