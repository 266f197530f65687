package usage

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"testing"
)

func TestPages(t *testing.T) {
	t.Parallel()
	var all []int
	for i := range 7 {
		all = append(all, i)
	}
	ask := func(query string) (page, error) {
		q := &asked{Request: httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/?"+query, nil)}
		return q.page("namespace")
	}
	var got []int
	token := ""
	for range 4 {
		p, err := ask("limit=3&namespace=shop&continue=" + token)
		if token == "" {
			p, err = ask("limit=3")
		}
		if err != nil {
			t.Fatal(err)
		}
		part, next, err := ranked(p, all)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, part...)
		if token = next; next == "" {
			break
		}
	}
	if !slices.Equal(got, all) {
		t.Errorf("pages have %v, want %v", got, all)
	}
	for _, wrong := range []string{
		"limit=0", "limit=501", "limit=x", "limit=1&limit=2", "continue=x", "continue=" + strconv.Itoa(3), "continue", "other=1", "series=true",
	} {
		if _, err := ask(wrong); err == nil {
			t.Errorf("%q was accepted", wrong)
		}
	}
	if p, err := ask("continue=" + tokenAfter("shop/api")); err != nil || p.after != "shop/api" || p.limit != defaultPage {
		t.Errorf("the page is %+v, error %v", p, err)
	} else if _, _, err := ranked(p, all); err == nil {
		t.Error("a token of another list was accepted")
	}
	if part, next, err := ranked(page{3, "9"}, all); len(part) != 0 || next != "" || err != nil {
		t.Errorf("behind the end there are %v, %q, error %v", part, next, err)
	}
}
