package browser

import (
	"bytes"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/security"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// The page shows a master that is lost, and the next one, while it is open. It says so when its
// own agent is gone, and goes on when that is back.
func TestMasterIsLostWhileThePageIsOpen(t *testing.T) {
	b := open(t)
	agents := cluster(t, 3, nil)
	first, others := master(t, agents)
	b.visit(others[0].url)
	b.shows("#live", "Live, as of")
	b.shows("#headline", first.id+" is master in term ")
	term := b.text("#headline")
	b.eventually("all members", `document.querySelectorAll("#members td[data-label=Node]").length === 3`)
	if said := b.text("#said"); said != "" {
		t.Errorf("a reader is told at the start: %s", said)
	}
	weigh(b)
	value[bool](b, "window.same = true") // gone with a page that is loaded again

	first.kill()
	b.eventually("another master", fmt.Sprintf(`/^orders-\d is master in term \d+$/.test(document.getElementById("headline").textContent) && document.getElementById("headline").textContent !== %q`, term))
	headline := b.text("#headline")
	if said := value[string](b, `document.getElementById("said").textContent`); said != headline {
		t.Errorf("a reader is told %q, shown is %q", said, headline)
	}
	if title := value[string](b, "document.title"); title != "orders: "+headline {
		t.Errorf("the title is %q", title)
	}
	b.shows("#timeline", headline)
	b.shows("#timeline", first.id+" failed")
	b.eventually("the member that failed", fmt.Sprintf(`[...document.querySelectorAll("#members tr")].some((row) => row.textContent.includes(%q) && row.textContent.includes("dead"))`, first.id))
	b.shows("#voters", "not reached")
	b.eventually("the same page", "window.same")
	b.picture("page.png", 1120, 1480)
	b.picture("page-phone.png", 390, 780)

	others[0].kill()
	b.shows("#live", "Not live since")
	b.shows("#said", "Not live")
	b.shows("#headline", headline) // what was known stays
	others[0].start(t)
	b.shows("#live", "Live, as of")
	b.shows("#said", "Live again. ")
	first.start(t)
	b.eventually("all three again", `document.querySelectorAll("#members .good").length >= 3 && document.querySelector("#members").textContent.includes("master")`)
	b.eventually("the same page", "window.same")
}

// weigh logs what the page weighs and when it was first painted, and holds that it is light.
func weigh(b *tab) {
	b.Helper()
	weight := value[int](b, `[...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource").filter((e) => /page\.(css|js|svg)$/.test(e.name))]
		.reduce((sum, e) => sum + e.decodedBodySize, 0)`)
	files := value[int](b, `performance.getEntriesByType("resource").filter((e) => /page\.(css|js)$/.test(e.name)).length`)
	b.eventually("the first paint", `performance.getEntriesByName("first-contentful-paint").length`)
	paint := value[float64](b, `performance.getEntriesByName("first-contentful-paint")[0].startTime`)
	b.Logf("weight: %d bytes; first paint after %.0f ms", weight, paint)
	if files != 2 || weight < 8<<10 || weight > 30<<10 {
		b.Errorf("%d bytes in a page with %d files, want 30 KiB at most", weight, files)
	}
}

// The facts are there without JavaScript.
func TestWithoutJavaScript(t *testing.T) {
	b := open(t)
	agents := cluster(t, 3, nil)
	first, others := master(t, agents)
	call(b, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	b.visit(others[0].url)
	text := result(b, chromedp.Text("body"))
	for _, want := range []string{first.id + " is master in term ", "As of ", "in sight", "Zone eu-1: 2", "Zone eu-2: 1", "http=10.0.0.5:8080", "rack=1", "static", "established", "joined at"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not shown", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

const token = "a-token-for-the-browser-0123456789"

func withToken(_ int, c map[string]any) { c["http"].(map[string]any)["token"] = token }

// The token is asked for once, by a form that works with the keyboard alone, and is never in a
// URL or in reach of a script.
func TestLogin(t *testing.T) {
	b := open(t, "status of 401")
	agent := cluster(t, 1, withToken)[0]
	url := agent.url
	b.visit(url)
	b.eventually("the focus in the field", `document.activeElement.id === "token"`)
	b.do(chromedp.KeyEvent("not the token" + kb.Enter))
	b.shows("[role=alert]", "This is not the token.")
	b.eventually("the focus in the field", `document.activeElement.id === "token"`)
	if described := value[bool](b, `document.getElementById("token").getAttribute("aria-describedby").split(" ").every((id) => document.getElementById(id))`); !described {
		t.Error("the field is described by nothing")
	}
	b.do(chromedp.KeyEvent(token + kb.Enter))
	b.shows("#headline", "orders-1 is master in term 1")
	b.shows("#live", "Live, as of")
	if at, cookie := value[string](b, "location.href"), value[string](b, "document.cookie"); at != url || cookie != "" {
		t.Errorf("it is at %s, and a script sees the cookie %q", at, cookie)
	}
	b.do(chromedp.Reload())
	b.shows("#headline", "orders-1 is master")

	// Another site cannot use the session, and a link from it leads to the page all the same.
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<a href="%s">the cluster</a><iframe src="%s"></iframe>`, url, url)
	}))
	defer other.Close()
	elsewhere := b.another("status of 401", "frame-ancestors", "chrome-error", "Unsafe attempt", "ERR_BLOCKED_BY_RESPONSE", "X-Frame-Options", "CORS")
	elsewhere.visit(strings.Replace(other.URL, "127.0.0.1", "localhost", 1))
	const read = `fetch(%q, {credentials: "include"}).then((a) => a.text(), (e) => "refused").then((text) => { window.got = text })`
	value[chromedp.Void](elsewhere, fmt.Sprintf(read, url+"v1/status")+"; 0")
	elsewhere.eventually("no answer", `window.got === "refused"`)
	value[chromedp.Void](elsewhere, `document.querySelector("a").click()`)
	elsewhere.shows("#headline", "orders-1 is master")

	b.front()
	b.do(chromedp.Focus("footer button"), chromedp.KeyEvent(kb.Enter))
	b.shows("#login-title", "A token is wanted")
	elsewhere.front()
	elsewhere.shows("#login-title", "A token is wanted") // its session was the same

	// A session ends with the agent, and the page asks again.
	b.front()
	b.do(chromedp.SendKeys("#token", token+kb.Enter))
	b.shows("#live", "Live, as of")
	agent.kill()
	b.shows("#live", "Not live since")
	agent.start(t)
	b.shows("#login-title", "A token is wanted")
}

// Over TLS the cookie is one that a browser takes from this host alone.
func TestLoginOverTLS(t *testing.T) {
	b := open(t, "status of 401")
	dir := t.TempDir()
	for _, args := range [][]string{{"tls", "ca", "--dir", dir}, {"tls", "cert", "page", "--dir", dir, "--host", "127.0.0.1"}} {
		if out, err := exec.CommandContext(t.Context(), muster(t), args...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	addrs := freeAddrs(t, 2)
	run(t, muster(t), "agent", "-c", configured(t, map[string]any{
		"cluster": "orders", "node": map[string]any{"id": "orders-1", "bind": addrs[0], "data_dir": t.TempDir()},
		"provider": map[string]any{"static": map[string]any{"peers": addrs[:1]}},
		"http": map[string]any{
			"addr": addrs[1], "token": token,
			"tls": map[string]string{"cert_file": filepath.Join(dir, "page.pem"), "key_file": filepath.Join(dir, "page-key.pem")},
		},
	}))
	call(b, security.SetIgnoreCertificateErrors, security.SetIgnoreCertificateErrorsParams{Ignore: true})
	listening(t, addrs[1])
	b.visit("https://" + addrs[1] + "/")
	b.do(chromedp.SendKeys("#token", token+kb.Enter))
	b.shows("#headline", "orders-1 is master in term 1")
	b.shows("#live", "Live, as of")
	_, port, _ := strings.Cut(addrs[1], ":")
	cookies := call(b, network.GetCookies, network.GetCookiesParams{}).Cookies
	if len(cookies) != 1 || cookies[0].Name != "__Host-muster_session_"+port || !cookies[0].Secure || !cookies[0].HTTPOnly || cookies[0].SameSite != "Strict" {
		t.Errorf("%d cookies, the first %+v", len(cookies), cookies)
	}
}

// hostile are texts that would do harm as markup.
var hostile = []string{
	`<script>window.harm = 1</script>`, `"><img src=x onerror="window.harm=1">`, `' onmouseover='window.harm=1`, strings.Repeat("long", 25),
}

// What members say of themselves is text, also of those that join while the page is open.
func TestHostileMembers(t *testing.T) {
	b := open(t)
	change := func(i int, c map[string]any) {
		n := c["node"].(map[string]any)
		n["tags"], n["zone"] = hostile, hostile[i]
		n["meta"] = map[string]string{"k": hostile[1]}
	}
	agents := cluster(t, 3, change)
	last, others := master(t, agents)
	b.visit(others[0].url)
	b.shows("#live", "Live, as of")
	last.kill()
	b.shows("#members", "dead")
	last.start(t)
	b.eventually("it is back", `document.querySelectorAll("#members td .good").length >= 4`)
	for _, text := range hostile {
		b.shows("#members", text)
	}
	if harm := value[bool](b, `"harm" in window || document.images.length > 0 || document.scripts.length !== 1`); harm {
		t.Error("a text became markup")
	}
	b.phone()
	if wide := b.wide(); wide != "" {
		t.Errorf("on a phone this is too wide:\n%s", wide)
	}
}

// A cluster of 500 members with names that are long and hostile is shown, fits on a phone, and
// stays live: an agent's own page, with 500 rows in place of one.
func TestManyMembers(t *testing.T) {
	b := open(t)
	agents := cluster(t, 3, nil)
	first, others := master(t, agents)
	target, err := url.Parse(others[0].url)
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile(`(?s)<tr role="row"><td role="cell" data-label="Node">.*?</tr>`)
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ModifyResponse: func(r *http.Response) error {
			if r.Request.URL.Path != "/" {
				return nil
			}
			page, err := io.ReadAll(r.Body)
			one := row.Find(page)
			if err != nil || one == nil {
				return fmt.Errorf("no row: %w", err)
			}
			var many bytes.Buffer
			for i := range 500 {
				name := html.EscapeString(fmt.Sprint(i, hostile[i%len(hostile)], strings.Repeat("x", i)))
				many.Write(bytes.ReplaceAll(one, []byte(`data-label="Node">`), []byte(`data-label="Node">`+name)))
			}
			page = bytes.Replace(page, one, many.Bytes(), 1)
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(page)), int64(len(page))
			r.Header.Del("Content-Length")
			return nil
		},
	})
	defer proxy.Close()
	defer b.visit("about:blank") // the proxy waits for the stream of events
	b.visit(proxy.URL)
	b.shows("#live", "Live, as of")
	headline := b.text("#headline")
	value[bool](b, "window.same = true")
	for _, size := range []func(){b.desktop, b.phone} {
		size()
		if wide := b.wide(); wide != "" {
			t.Errorf("too wide: %.500s", wide)
		}
	}
	first.kill()
	b.eventually("another master", fmt.Sprintf(`/ is master in term /.test(document.getElementById("headline").textContent) && document.getElementById("headline").textContent !== %q`, headline))
	rows := value[int](b, `document.querySelectorAll("#members td[data-label=Node]").length`)
	if same := value[bool](b, `window.same && !("harm" in window) && document.images.length === 0`); rows < 500 || !same {
		t.Errorf("%d rows; still the same page: %t", rows, same)
	}
}

// contrasts returns the elements with text of too little contrast, and the least that there is.
const contrasts = `(() => {
	const parse = (c) => { const m = c.match(/[\d.]+/g).map(Number); return { rgb: m.slice(0, 3), alpha: m[3] ?? 1 }; };
	const light = (rgb) => { const [r, g, b] = rgb.map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
	const back = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.alpha === 1) return c.rgb; if (c.alpha > 0) throw new Error("translucent"); } throw new Error("no background"); };
	const out = { checked: 0, least: 21, failing: [] };
	const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	const check = (e, colour, what) => {
		const [a, b] = [light(parse(colour).rgb), light(back(e))].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
		out.checked++; out.least = Math.min(out.least, ratio);
		if (ratio < 4.5) out.failing.push(ratio.toFixed(2) + " " + what);
	};
	while (walker.nextNode()) {
		const e = walker.currentNode.parentElement;
		if (walker.currentNode.data.trim() === "" || e.closest("script, .unseen")) continue;
		check(e, getComputedStyle(e).color, e.outerHTML.slice(0, 90));
	}
	for (const e of document.querySelectorAll("td[data-label]")) {
		const s = getComputedStyle(e, "::before");
		if (s.content !== "none") check(e, s.color, "the label of " + e.outerHTML.slice(0, 60));
	}
	for (const e of document.querySelectorAll("input, button")) check(e.parentElement, getComputedStyle(e).borderTopColor, "the border of " + e.outerHTML.slice(0, 60));
	return out;
})()`

// contrast holds that all text has the contrast of WCAG 2 AA, in the light and in the dark.
func contrast(b *tab, what string) {
	b.Helper()
	for _, scheme := range []string{"light", "dark"} {
		b.media(scheme, "reduce")
		type result struct {
			Checked int
			Least   float64
			Failing []string
		}
		got := value[result](b, contrasts)
		b.Logf("%s, %s: %d texts, the least contrast is %.2f", what, scheme, got.Checked, got.Least)
		if got.Checked < 4 || len(got.Failing) > 0 {
			b.Errorf("%s, %s: %d texts, too little contrast of\n%s", what, scheme, got.Checked, strings.Join(got.Failing, "\n"))
		}
	}
	dark := value[string](b, "getComputedStyle(document.body).backgroundColor")
	b.media("light", "reduce")
	if light := value[string](b, "getComputedStyle(document.body).backgroundColor"); light == dark {
		b.Errorf("%s is as bright in the dark", what)
	}
}

// All can be read, in the light and in the dark, on a phone, and by a screen reader.
func TestAccessibility(t *testing.T) {
	b := open(t, "status of 401")
	agents := cluster(t, 3, withToken)
	b.visit(agents[0].url)
	outline(b, 1)
	contrast(b, "the form")
	b.do(chromedp.SendKeys("#token", "wrong"+kb.Enter))
	b.shows("[role=alert]", "This is not the token.")
	contrast(b, "the form with an error")
	b.phone()
	if wide := b.wide(); wide != "" {
		t.Errorf("on a phone the form is too wide:\n%s", wide)
	}
	b.desktop()
	b.do(chromedp.SendKeys("#token", token+kb.Enter))
	b.shows("#live", "Live, as of")
	outline(b, 6)

	agents[1].kill()
	agents[2].kill() // so that there is something to warn of
	b.shows("#headline", "No master")
	b.shows("#members", "dead")
	b.eventually("a warning", `document.querySelector("#timeline .warn") && document.querySelector("#timeline .bad")`)
	contrast(b, "the page")
	table(b, "on a desktop")
	b.phone()
	if wide := b.wide(); wide != "" {
		t.Errorf("on a phone the page is too wide:\n%s", wide)
	}
	contrast(b, "the page on a phone")
	table(b, "on a phone")
	b.eventually("labels in the cells", `[...document.querySelectorAll("td[data-label]")].every((e) => getComputedStyle(e, "::before").content.startsWith('"' + e.dataset.label))`)
	b.desktop()

	// The one thing to operate is reached by the keyboard, and is seen to be.
	b.do(chromedp.KeyEvent(kb.Tab))
	b.eventually("the focus", `document.activeElement.matches("footer button") && getComputedStyle(document.activeElement).outlineStyle === "solid" && parseFloat(getComputedStyle(document.activeElement).outlineWidth) >= 2`)

	// What moves does not where that is not wanted.
	value[chromedp.Void](b, `document.getElementById("headline").classList.add("changed"); 0`)
	for motion, name := range map[string]string{"reduce": "none", "no-preference": "changed"} {
		b.media("light", motion)
		if got := value[string](b, `getComputedStyle(document.getElementById("headline")).animationName`); got != name {
			t.Errorf("with the motion %s the animation is %s", motion, got)
		}
	}

	agents[0].kill()
	b.shows("#live", "Not live since")
	contrast(b, "the page that is not live")
}

// outline holds that the page has landmarks and headings, each with a name.
func outline(b *tab, sections int) {
	b.Helper()
	wrong := value[[]string](b, `(() => {
		const wrong = [], all = (s) => [...document.querySelectorAll(s)];
		if (document.documentElement.lang !== "en") wrong.push("no language");
		if (all("main").length !== 1) wrong.push("no main");
		if (all("h1").length !== 1) wrong.push("no h1");
		for (const s of all("section")) {
			const label = document.getElementById(s.getAttribute("aria-labelledby"));
			if (!label || !/^H[12]$/.test(label.tagName) || label.textContent.trim() === "") wrong.push("no label of " + s.id);
		}
		for (const e of all("input:not([hidden])")) if (e.labels.length !== 1) wrong.push("no label of the field " + e.id);
		for (const e of all("button")) if (e.textContent.trim() === "") wrong.push("a button without text");
		if (new Set(all("[id]").map((e) => e.id)).size !== all("[id]").length) wrong.push("an id twice");
		if (all("[tabindex]").some((e) => e.tabIndex > 0)) wrong.push("an order of its own");
		return wrong;
	})()`)
	if got := value[int](b, `document.querySelectorAll("section").length`); got < sections || len(wrong) > 0 {
		b.Errorf("%d sections; %q", got, wrong)
	}
}

// table holds that members are a table to a screen reader.
func table(b *tab, where string) {
	b.Helper()
	call(b, accessibility.Enable, cdp.Empty{})
	nodes := call(b, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{}).Nodes
	roles := make(map[string]int)
	for _, n := range nodes {
		if n.Role != nil && !n.Ignored {
			roles[strings.Trim(string(n.Role.Value), `"`)]++
		}
	}
	for role, least := range map[string]int{"main": 1, "banner": 1, "region": 6, "heading": 7, "table": 3, "row": 8, "cell": 20, "columnheader": 10, "rowheader": 2, "status": 1} {
		if roles[role] < least {
			b.Errorf("%s there are %d of %s, want %d", where, roles[role], role, least)
		}
	}
}

// The pictures of the documentation are small.
func TestPictures(t *testing.T) {
	for _, name := range []string{"page.png", "page-phone.png", "registrar.png"} {
		info, err := os.Stat(filepath.Join("..", "..", "docs", "images", name))
		if err != nil {
			t.Error(err)
		} else if info.Size() > 150<<10 {
			t.Errorf("%s has %d bytes, want 150 KiB at most", name, info.Size())
		}
	}
}
