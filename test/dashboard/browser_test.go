package dashboard

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// browser is a headless Chromium with one page open. It holds the page to two
// promises in every test: nothing is asked of another host, and no script or
// policy complains.
type browser struct {
	t    *testing.T
	w    *world
	ctx  context.Context
	host string

	mu       sync.Mutex
	requests int
	foreign  []string
	trouble  []string
}

// chromium is Debian's, or the environment's CHROMIUM.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{os.Getenv("CHROMIUM"), "chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil && name != "" {
			return path
		}
	}
	t.Fatal("these tests need Chromium: hack/packages.sh browser")
	return ""
}

func (w *world) browser(t *testing.T) *browser {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium(t)), chromedp.NoSandbox, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("force-color-profile", "srgb"), chromedp.Flag("disable-component-update", true))
	allocator, end := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(end)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	address, err := url.Parse(w.page)
	must(t, err)
	b := &browser{t: t, w: w, ctx: ctx, host: address.Host}
	must(t, chromedp.Listen(ctx, b.hear)) // starts the browser, which ends with ctx
	call(b, network.Enable, network.EnableParams{})
	call(b, log.Enable, cdp.Empty{})
	call(b, runtime.Enable, cdp.Empty{})
	b.size(1280, 900)
	t.Cleanup(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.foreign) > 0 {
			t.Errorf("asked of another host: %q", b.foreign)
		}
		if len(b.trouble) > 0 {
			t.Errorf("the browser complained: %q", b.trouble)
		}
		if b.requests == 0 {
			t.Error("no request was seen: the watch over them does not work")
		}
	})
	return b
}

func (b *browser) hear(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		b.requests++
		if u, err := url.Parse(e.Request.URL); err != nil || u.Scheme != "data" && u.Scheme != "about" && u.Host != b.host {
			b.foreign = append(b.foreign, e.Request.URL)
		}
	case *log.EventEntryAdded:
		// A refused page and a server that is away are what tests are about.
		if e.Entry.Level == log.EntryLevelError && e.Entry.Source != log.EntrySourceNetwork {
			b.trouble = append(b.trouble, e.Entry.Text)
		}
	case *runtime.EventExceptionThrown:
		b.trouble = append(b.trouble, e.ExceptionDetails.Text+fmt.Sprint(e.ExceptionDetails.Exception))
	}
}

// do runs actions of the browser, bounded.
func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	get(b, chromedp.Steps(actions...))
}

// get runs an action, bounded, and returns its value.
func get[T any](b *browser, action chromedp.Action[T]) T {
	b.t.Helper()
	value, err := try(b, action)
	if err != nil {
		b.t.Fatalf("%v; the page says:\n%s", err, b.text())
	}
	return value
}

func try[T any](b *browser, action chromedp.Action[T]) (T, error) {
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, action)
}

// call sends the browser a command of its protocol.
func call[P, R any](b *browser, command cdp.Command[P, R], params P) {
	b.t.Helper()
	if _, err := chromedp.Call(b.ctx, command, params); err != nil {
		b.t.Fatal(err)
	}
}

func (b *browser) size(width, height int64) {
	call(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: height, DeviceScaleFactor: 1, Mobile: width < 600})
}

// dark or light, as the reader's system is.
func (b *browser) scheme(name string) {
	call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}}})
}

func (b *browser) open(path string) { b.t.Helper(); b.do(chromedp.Navigate(b.w.page + path)) }

// signIn with a token.
func (b *browser) signIn(token string) {
	b.t.Helper()
	b.open("/schedules")
	b.do(chromedp.WaitVisible("#token"), chromedp.SetValue("#token", token), chromedp.Click("button.main"))
	b.sees("Schedules")
}

// text that a reader of the page sees.
func (b *browser) text() string {
	text, _ := try(b, chromedp.Evaluate[string](`document.body ? document.body.innerText : ""`)) // while it is replaced there is none
	return text
}

// sees waits until the page says a text.
func (b *browser) sees(text string) { b.t.Helper(); b.seesWithin(patience, text) }

func (b *browser) seesWithin(limit time.Duration, text string) {
	b.t.Helper()
	said := ""
	for deadline := time.Now().Add(limit); ; time.Sleep(30 * time.Millisecond) {
		if said = b.text(); strings.Contains(said, text) {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("not within %v: the page says %q; it says\n%s", limit, text, said)
		}
	}
}

func (b *browser) seesNot(text string) {
	b.t.Helper()
	eventually(b.t, fmt.Sprintf("the page says no %q", text), func() bool { return !strings.Contains(b.text(), text) })
}

// evaluate is a script's value.
func evaluate[T any](b *browser, script string) T {
	b.t.Helper()
	return get(b, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
}

// press the button of this label.
func (b *browser) press(label string) {
	b.t.Helper()
	b.do(chromedp.Click(fmt.Sprintf(`//button[normalize-space()=%q]`, label)))
}

// darkAndNarrow looks at a view in the dark, and on a screen of 400 pixels.
func (b *browser) darkAndNarrow(t *testing.T, what, name string) {
	t.Helper()
	b.scheme("dark")
	b.accessible(t, what+", dark")
	b.picture(name + "-dark")
	b.size(400, 800)
	if wide := evaluate[int](b, "document.documentElement.scrollWidth"); wide > 400 {
		t.Errorf("%s: it is %d pixels wide on a screen of 400", what, wide)
	}
	b.picture(name + "-400")
	b.scheme("light")
	b.size(1280, 900)
}

// pictures are kept in bin/dashboard, or the environment's ARTEFACTS.
func (b *browser) picture(name string) {
	b.t.Helper()
	folder := os.Getenv("ARTEFACTS")
	if folder == "" {
		folder = root + "/bin/dashboard"
	}
	must(b.t, os.MkdirAll(folder, 0o755))
	must(b.t, os.WriteFile(filepath.Join(folder, name+".png"), get(b, chromedp.FullScreenshot(100)), 0o644))
}

// clickIn clicks what is found in the first row of a table that has a text, once it
// is there.
func (b *browser) clickIn(text, selector string) {
	b.t.Helper()
	eventually(b.t, fmt.Sprintf("a row with %q has %s", text, selector), func() bool {
		return evaluate[bool](b, fmt.Sprintf(
			`(() => { const row = [...document.querySelectorAll("tbody tr")].find(r => r.innerText.includes(%q)); const e = row && row.querySelector(%q); if (e) e.click(); return !!e })()`, text, selector))
	})
}

func clicks(selector string) chromedp.Action[chromedp.Void] { return chromedp.Click(selector) }

func fills(selector, text string) chromedp.Action[chromedp.Void] {
	return chromedp.SetValue(selector, text)
}
