package dashboard

import (
	"bytes"
	"fmt"
	"net/http"
	"unicode/utf8"
)

// guarded adds what keeps a browser from being used against its user: nothing is
// loaded from elsewhere, nothing in a page is a script or a style but our files,
// and no other page may frame ours, post to it or learn of it.
func guarded(next http.Handler) http.Handler {
	return http.NewCrossOriginProtection().Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("X-Frame-Options", "DENY")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
		h.Set("Cache-Control", "no-store")
		r.Body = http.MaxBytesReader(w, r.Body, maxBodyBytes)
		next.ServeHTTP(w, r)
	}))
}

// shown makes characters visible that would hide or reorder others: controls,
// and those that only steer bidirectional text or have no width. It is for whole
// pages: our own templates have none, so whatever a caller, a task or an error
// is called, no view can forget it.
func shown(page []byte) []byte {
	if i := firstHidden(page); i < 0 {
		return page
	}
	var out bytes.Buffer
	out.Grow(len(page) + 64)
	for len(page) > 0 {
		r, size := utf8.DecodeRune(page)
		if r == utf8.RuneError && size == 1 {
			out.WriteRune(utf8.RuneError)
		} else if hidden(r) {
			fmt.Fprintf(&out, "⟨U+%04X⟩", r)
		} else {
			out.Write(page[:size])
		}
		page = page[size:]
	}
	return out.Bytes()
}

func firstHidden(page []byte) int {
	for i := 0; i < len(page); {
		if page[i] < utf8.RuneSelf {
			if hidden(rune(page[i])) {
				return i
			}
			i++
			continue
		}
		r, size := utf8.DecodeRune(page[i:])
		if hidden(r) || r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

func hidden(r rune) bool {
	switch {
	case r == '\n' || r == '\t':
		return false
	case r < 0x20, r >= 0x7f && r < 0xa0, // C0, DEL, C1
		r == 0xad, r == 0x34f, r == 0x61c, r == 0x115f, r == 0x1160, r == 0x3164, // soft hyphen, joiner, Arabic mark, fillers
		r == 0x17b4, r == 0x17b5, r >= 0x180b && r <= 0x180f,
		r >= 0x200b && r <= 0x200f, r >= 0x2028 && r <= 0x202e, r >= 0x2060 && r <= 0x206f,
		r == 0xfeff, r >= 0xfff9 && r <= 0xfffb, r >= 0xe0000 && r <= 0xe0fff:
		return true
	}
	return false
}
