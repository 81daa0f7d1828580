package browser

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

var update = flag.Bool("update", false, "make the pictures of docs/images")

// patience bounds each wait. What is waited for takes seconds at most on an idle machine.
const patience = 2 * time.Minute

// chromium returns the path of the browser, and skips the test if there is none.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("MUSTER_REQUIRE_BROWSER") == "1" {
		t.Fatal("no Chromium is installed, and MUSTER_REQUIRE_BROWSER=1 wants one")
	}
	t.Skip("no Chromium is installed")
	return ""
}

// tab is a tab of a browser of its own.
type tab struct {
	*testing.T
	ctx context.Context

	mu       sync.Mutex
	problems []string // what the console and the policy complain of
}

// noAnswer is what the browser complains of while the agent is gone, whichever way that shows.
// What the policy blocks has another text.
var noAnswer = []string{"Failed to load resource: net::ERR_"}

// open starts a browser. What it complains of while the test runs fails the test, but for what
// has one of the texts that are expected, or says that the agent is gone.
func open(t *testing.T, expected ...string) *tab {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(chromium(t)), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.WindowSize(1280, 900),
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.WSURLReadTimeout(patience))
	allocated, end := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(end)
	return newTab(t, allocated, expected)
}

func newTab(t *testing.T, parent context.Context, expected []string) *tab {
	t.Helper()
	ctx, end := chromedp.NewContext(parent)
	b := &tab{T: t, ctx: ctx}
	t.Cleanup(end)
	t.Cleanup(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, problem := range b.problems {
			if !containsAny(problem, noAnswer) && !containsAny(problem, expected) {
				t.Errorf("the browser complains: %s", problem)
			}
		}
	})
	if err := chromedp.Do(ctx); err != nil { // it starts, and lives as long as ctx
		t.Fatal(err)
	}
	err := chromedp.Listen(ctx, func(event any) {
		text := ""
		switch e := event.(type) {
		case *log.EventEntryAdded:
			text = fmt.Sprint(e.Entry.Level, " ", e.Entry.Text, " ", e.Entry.URL)
		case *runtime.EventExceptionThrown:
			text = "an exception: " + e.ExceptionDetails.Text
			if e.ExceptionDetails.Exception != nil {
				text += " " + e.ExceptionDetails.Exception.Description
			}
		case *runtime.EventConsoleAPICalled:
			text = fmt.Sprint("console.", e.Type)
		case *page.EventJavascriptDialogOpening:
			text = "a dialog: " + e.Message
		}
		if text != "" {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.problems = append(b.problems, text)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	call(b, log.Enable, cdp.Empty{})
	call(b, runtime.Enable, cdp.Empty{})
	return b
}

func containsAny(s string, texts []string) bool {
	for _, text := range texts {
		if strings.Contains(s, text) {
			return true
		}
	}
	return false
}

// front has the tab be the one that is seen.
func (b *tab) front() { b.Helper(); call(b, page.BringToFront, cdp.Empty{}) }

// another is a further tab of the same browser.
func (b *tab) another(expected ...string) *tab { return newTab(b.T, b.ctx, expected) }

// bounded returns a context for one action.
func (b *tab) bounded() (context.Context, context.CancelFunc) {
	return context.WithTimeout(b.ctx, patience)
}

// do runs actions, and fails the test where one fails.
func (b *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	ctx, cancel := b.bounded()
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.Fatal(err)
	}
}

// result is do for an action that has one.
func result[T any](b *tab, action chromedp.Action[T]) T {
	b.Helper()
	ctx, cancel := b.bounded()
	defer cancel()
	v, err := chromedp.Run(ctx, action)
	if err != nil {
		b.Fatal(err)
	}
	return v
}

// call is do for a command of the protocol.
func call[P, R any](b *tab, command cdp.Command[P, R], params P) R {
	b.Helper()
	ctx, cancel := b.bounded()
	defer cancel()
	r, err := chromedp.Call(ctx, command, params)
	if err != nil {
		b.Fatal(err)
	}
	return r
}

// visit opens a page and waits until it is loaded, whatever its status.
func (b *tab) visit(url string) {
	b.Helper()
	b.do(chromedp.Navigate(url), chromedp.WaitReady("body"))
}

// value returns that of an expression of JavaScript.
func value[T any](b *tab, expression string) T {
	b.Helper()
	return result(b, chromedp.Evaluate[T](expression))
}

func (b *tab) text(selector string) string {
	b.Helper()
	return value[string](b, fmt.Sprintf("document.querySelector(%q)?.innerText ?? ''", selector))
}

// eventually waits until an expression of JavaScript is true, also while a page is being
// loaded, and fails with the text of the page if it is not.
func (b *tab) eventually(what, expression string) {
	b.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		var holds bool
		ctx, cancel := b.bounded()
		holds, err = chromedp.Run(ctx, chromedp.Evaluate[bool]("Boolean("+expression+")"))
		cancel()
		if holds {
			return
		}
		<-time.After(20 * time.Millisecond)
	}
	b.Fatalf("not within %v: %s (%v)\n%s", patience, what, err, b.text("body"))
}

// shows waits until the text of an element contains text.
func (b *tab) shows(selector, text string) {
	b.Helper()
	b.eventually(selector+" shows "+text, fmt.Sprintf(`document.readyState === "complete" && document.querySelector(%q)?.textContent.includes(%q)`, selector, text))
}

// media has the browser prefer a scheme of colours, and motion or none.
func (b *tab) media(scheme, motion string) {
	b.Helper()
	call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: motion},
	}})
}

// size sets that of the window, which is a phone's if it is narrow.
func (b *tab) size(width, height int64) {
	b.Helper()
	call(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: height, DeviceScaleFactor: 1, Mobile: width < 500})
}

// phone has the window be that of a small phone, and desktop that of another computer.
func (b *tab) phone()   { b.Helper(); b.size(360, 740) }
func (b *tab) desktop() { b.Helper(); b.size(1280, 900) }

// wide reports what is wider than the window, so that one has to scroll aside.
func (b *tab) wide() string {
	b.Helper()
	return value[string](b, `(() => {
		const width = document.documentElement.clientWidth;
		if (document.scrollingElement.scrollWidth <= width) return "";
		return [...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > width + 1).map((e) => e.outerHTML.slice(0, 80)).join("\n") || "the page";
	})()`)
}

// picture makes one for the documentation, if it was asked for.
func (b *tab) picture(name string, width, height int64) {
	b.Helper()
	if !*update {
		return
	}
	b.media("light", "reduce")
	b.size(width, height)
	picture, err := fewColours(result(b, chromedp.CaptureScreenshot()))
	if err != nil {
		b.Fatal(err)
	}
	dir := filepath.Join("..", "..", "docs", "images")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, name), picture, 0o644)); err != nil {
		b.Fatal(err)
	}
	b.Logf("%s: %d bytes", name, len(picture))
	b.desktop()
}

// fewColours returns a picture with the 256 colours that it has most of: a third of the bytes.
func fewColours(in []byte) ([]byte, error) {
	full, err := png.Decode(bytes.NewReader(in))
	if err != nil {
		return nil, err
	}
	count := make(map[color.Color]int)
	bounds := full.Bounds()
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			count[full.At(x, y)]++
		}
	}
	colours := slices.SortedFunc(maps.Keys(count), func(a, b color.Color) int { return cmp.Compare(count[b], count[a]) })
	few := image.NewPaletted(bounds, colours[:min(256, len(colours))])
	draw.Draw(few, bounds, full, bounds.Min, draw.Src)
	var out bytes.Buffer
	err = (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, few)
	return out.Bytes(), err
}
