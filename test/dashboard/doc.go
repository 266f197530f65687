// Package dashboard holds the page to what it promises, in Debian's Chromium:
// with a real API server, Redis, operator and workers.
package dashboard

import _ "github.com/chromedp/chromedp"
