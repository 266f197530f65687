package pages

import (
	"os/exec"
	"strings"
	"testing"
)

func parse(t *testing.T, text string) []Block {
	t.Helper()
	blocks, err := Parse("page.md", strings.ReplaceAll(text, "~~~", "```"))
	if err != nil {
		t.Fatal(err)
	}
	return blocks
}

func TestBlocksAreReadWithTheirMarksAndWhatTheyPrint(t *testing.T) {
	t.Parallel()
	blocks := parse(t, `# Page
<!-- setup
kubectl create namespace page
-->

~~~sh
kubectl get pods
~~~

~~~text
NAME
~~~

<!-- not run: needs a registry -->
~~~sh
docker push image
~~~

1. In a list:

   <!-- fails -->
   ~~~sh
   if true; then
     false
   fi
   ~~~

~~~yaml policy.yaml
apiVersion: weir.dev/v1alpha1
~~~

What a program prints:

~~~text
nothing that a command prints
~~~
`)
	want := []Block{
		{Line: 2, Language: "sh", Setup: true, Text: "kubectl create namespace page\n"},
		{Line: 6, Language: "sh", Text: "kubectl get pods\n", Prints: "NAME\n"},
		{Line: 15, Language: "sh", Text: "docker push image\n", NotRun: "needs a registry"},
		{Line: 22, Language: "sh", Text: "if true; then\n  false\nfi\n", Fails: true},
		{Line: 28, Language: "yaml", File: "policy.yaml", Text: "apiVersion: weir.dev/v1alpha1\n"},
		{Line: 34, Language: "text", Text: "nothing that a command prints\n"},
	}
	if len(blocks) != len(want) {
		t.Fatalf("want %d blocks, got %+v", len(want), blocks)
	}
	for i, b := range blocks {
		want[i].Page = "page.md"
		if b != want[i] {
			t.Errorf("block %d:\nwant %+v\n got %+v", i, want[i], b)
		}
	}
}

func TestAMarkThatSaysNothingIsAnError(t *testing.T) {
	t.Parallel()
	for reason, text := range map[string]string{
		"no reason":         "<!-- not run: -->\n~~~sh\n~~~\n",
		"misspelt":          "<!-- not ran: why -->\n~~~sh\n~~~\n",
		"before prose":      "<!-- fails -->\nprose\n",
		"before yaml":       "<!-- fails -->\n~~~yaml\n~~~\n",
		"at the page's end": "<!-- fails -->\n",
		"block without end": "~~~sh\ntrue\n",
		"setup without end": "<!-- setup\ntrue\n",
		"setup on one line": "<!-- setup true -->\n",
	} {
		if _, err := Parse("page.md", strings.ReplaceAll(text, "~~~", "```")); err == nil {
			t.Errorf("%s: want an error", reason)
		}
	}
}

func TestManifestsAreBlocksAndHereDocuments(t *testing.T) {
	t.Parallel()
	objects, err := Manifests(parse(t, `
~~~yaml
images: {tag: "1"}
~~~
~~~yaml
apiVersion: v1
kind: Pod
~~~
~~~sh
kubectl apply -f - <<'EOF'
apiVersion: v1
kind: Service
EOF
~~~
`))
	if err != nil {
		t.Fatal(err)
	}
	if len(objects) != 2 || objects[0].Line != 5 || objects[1].Line != 11 || objects[1].Text != "apiVersion: v1\nkind: Service\n" {
		t.Errorf("want a Pod at line 5 and a Service at line 11, got %+v", objects)
	}
	if _, err := Manifests(parse(t, "~~~sh\ncat <<'EOF'\napiVersion: v1\n~~~\n")); err == nil {
		t.Error("a here-document without end: want an error")
	}
}

func TestWhatIsPrintedMatchesWhatThePageSays(t *testing.T) {
	t.Parallel()
	for reason, c := range map[string]struct {
		want, got string
		match     bool
	}{
		"the same":                    {"a b\nc\n", "a b\nc\n", true},
		"other spaces":                {"a   b", "  a b  \n", true},
		"another line":                {"a\nb", "a\nc", false},
		"a line more":                 {"a", "a\nb", false},
		"a line less":                 {"a\nb", "a", false},
		"another age":                 {"pod 12s", "pod 3m5s", true},
		"no age":                      {"pod 12s", "pod ready", false},
		"a limit is no age":           {"5/1m", "5/2m", false},
		"anything in a line":          {"pod/api-… created", "pod/api-7d9-x created", true},
		"anything, not a line":        {"pod …", "pod\napi", false},
		"any number of lines":         {"a\n…\nd", "a\nb\nc\nd", true},
		"no lines":                    {"a\n…\nd", "a\nd", true},
		"lines to the end":            {"a\n…", "a\nb\nc", true},
		"what means something else":   {"a.b (c) [d]", "a.b (c) [d]", true},
		"not what it would also mean": {"a.b", "axb", false},
	} {
		if err := Match(c.want, c.got); (err == nil) != c.match {
			t.Errorf("%s: Match(%q, %q) is %v", reason, c.want, c.got, err)
		}
	}
}

func TestBlocksAreTypedIntoOneShellUntilOneFails(t *testing.T) {
	t.Parallel()
	for reason, c := range map[string]struct {
		blocks []Block
		want   string // in the error; empty: none
	}{
		"what is printed is as the page says": {[]Block{
			{Line: 1, Text: "NAME=weir\n"},
			{Line: 2, Text: "echo $NAME\necho 'and more' >&2\n", Prints: "weir\n…\n"},
		}, ""},
		"it is not, and all that is not is told": {[]Block{
			{Line: 1, Text: "echo one\n", Prints: "two\n"},
			{Line: 2, Text: "echo two\n", Prints: "two\n"},
			{Line: 3, Text: "echo three\n", Prints: "four\n"},
		}, "page.md:3"},
		"a command fails":                       {[]Block{{Line: 1, Text: "echo begun\nfalse\necho gone on\n"}, {Line: 2, Text: "true\n"}}, "page.md:1"},
		"a command of a pipe fails":             {[]Block{{Line: 1, Text: "false | cat\n"}}, "page.md:1"},
		"an unset variable":                     {[]Block{{Line: 1, Text: "echo $NOWHERE\n"}}, "NOWHERE"},
		"one fails as the page says":            {[]Block{{Line: 1, Text: "echo no >&2\nfalse\n", Fails: true, Prints: "no\n"}, {Line: 2, Text: "true\n"}}, ""},
		"one succeeds that should fail":         {[]Block{{Line: 1, Text: "true\n", Fails: true}}, "the page says that it fails"},
		"a command that reads gets no commands": {[]Block{{Line: 1, Text: "cat\n"}, {Line: 2, Text: "echo two\n", Prints: "two\n"}}, ""},
	} {
		for i := range c.blocks {
			c.blocks[i].Page = "page.md"
		}
		err := Type(exec.CommandContext(t.Context(), "bash"), c.blocks)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: want an error with %q, got %v", reason, c.want, err)
		}
	}
}
