// Package pages reads what the documentation's pages tell to type, and what
// they say that it prints.
//
// Of a page's fenced blocks, those in sh are run, in their order, and those in
// yaml that name a file are files beside them. A block in text right after one
// in sh is what it prints. HTML comments, which readers do not see, say the
// rest:
//
//	<!-- not run: WHY -->    the next block cannot be run by a test
//	<!-- fails -->           the next block's command fails, as the page says
//	<!-- setup
//	COMMANDS
//	-->                      what the page takes for granted, run by the test alone
package pages

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// Block is a fenced block of a page, or what a comment sets up.
type Block struct {
	// Page and Line are where it begins.
	Page string
	Line int
	// Language is sh, yaml, text, …; File is the name after it.
	Language, File string
	Text           string
	// Setup: readers do not see it.
	Setup bool
	// NotRun is why it is not run; empty: it is.
	NotRun string
	// Fails: its last command ends with an error.
	Fails bool
	// Prints is what the page says that it prints; empty: nothing.
	Prints string
}

// String is where the block is.
func (b *Block) String() string { return fmt.Sprintf("%s:%d", b.Page, b.Line) }

// Read reads a page's blocks.
func Read(page string) ([]Block, error) {
	text, err := os.ReadFile(page)
	if err != nil {
		return nil, err
	}
	return Parse(page, string(text))
}

// Parse reads the blocks of a text.
func Parse(page, text string) ([]Block, error) {
	p := parser{page: page, lines: strings.Split(text, "\n")}
	for p.at < len(p.lines) {
		if err := p.next(); err != nil {
			return nil, err
		}
	}
	if p.mark.set() {
		return nil, fmt.Errorf("%s: the last mark stands before no block", page)
	}
	return p.blocks, nil
}

// mark is what a comment says of the block that follows.
type mark struct {
	notRun string
	fails  bool
}

func (m mark) set() bool { return m != mark{} }

// parser goes through a page's lines.
type parser struct {
	page   string
	lines  []string
	at     int
	blocks []Block
	mark   mark
	// command is the index of the block in sh that nothing came after yet, plus 1.
	command int
}

func (p *parser) fault(line int, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %w", p.page, line+1, fmt.Errorf(format, args...))
}

// next reads a line, and with it a block or a comment that begins there.
func (p *parser) next() error {
	line := strings.TrimSpace(p.lines[p.at])
	switch {
	case line == "":
		p.at++
		return nil
	case strings.HasPrefix(line, "```"):
		return p.block()
	case line == "<!-- setup":
		return p.setup()
	case strings.HasPrefix(line, "<!--") && strings.HasSuffix(line, "-->"):
		p.at++
		return p.comment(strings.TrimSpace(line[4 : len(line)-3]))
	case p.mark.set():
		return p.fault(p.at, "a mark stands before this line and no block")
	}
	p.command = 0
	p.at++
	return nil
}

// comment reads a comment of one line.
func (p *parser) comment(text string) error {
	p.command = 0
	why, notRun := strings.CutPrefix(text, "not run:")
	switch {
	case notRun && strings.TrimSpace(why) == "":
		return p.fault(p.at-1, "not run: why?")
	case notRun:
		p.mark.notRun = strings.TrimSpace(why)
	case text == "fails":
		p.mark.fails = true
	case strings.HasPrefix(text, "not"), strings.HasPrefix(text, "fail"), strings.HasPrefix(text, "setup"):
		return p.fault(p.at-1, "comment %q is none that this knows: write \"not run: WHY\", \"fails\", or \"setup\" alone on its line", text)
	}
	return nil
}

// until reads the lines up to one that ends the block.
func (p *parser) until(end string) (string, error) {
	began := p.at
	indent := p.lines[began][:len(p.lines[began])-len(strings.TrimLeft(p.lines[began], " "))]
	var lines []string
	for p.at++; p.at < len(p.lines); p.at++ {
		line := strings.TrimPrefix(p.lines[p.at], indent)
		if strings.TrimRight(line, " ") == end {
			p.at++
			return strings.Join(lines, "\n") + "\n", nil
		}
		lines = append(lines, line)
	}
	return "", p.fault(began, "nothing ends what begins here: want %q", end)
}

func (p *parser) setup() error {
	b := Block{Page: p.page, Line: p.at + 1, Language: "sh", Setup: true}
	text, err := p.until("-->")
	if err != nil {
		return err
	}
	b.Text, p.command = text, 0
	p.blocks = append(p.blocks, b)
	return nil
}

func (p *parser) block() error {
	line := p.at
	language, file, _ := strings.Cut(strings.TrimSpace(strings.TrimLeft(strings.TrimSpace(p.lines[line]), "`")), " ")
	text, err := p.until("```")
	if err != nil {
		return err
	}
	if language == "text" && p.command > 0 {
		p.blocks[p.command-1].Prints, p.command = text, 0
		return nil
	}
	if p.mark.set() && language != "sh" {
		return p.fault(line, "a mark stands before a block in %q: only those in sh are run", language)
	}
	p.blocks = append(p.blocks, Block{
		Page: p.page, Line: line + 1, Language: language, File: strings.TrimSpace(file),
		Text: text, NotRun: p.mark.notRun, Fails: p.mark.fails,
	})
	p.mark, p.command = mark{}, 0
	if language == "sh" {
		p.command = len(p.blocks)
	}
	return nil
}

// Manifests are the Kubernetes objects that a page's blocks have in YAML: blocks
// of their own, and what is given to commands as here-documents.
func Manifests(blocks []Block) ([]Block, error) {
	var all []Block
	var failures []error
	for _, b := range blocks {
		switch b.Language {
		case "yaml":
			all = append(all, b)
		case "sh":
			documents, err := hereDocuments(b)
			all = append(all, documents...)
			failures = append(failures, err)
		}
	}
	var objects []Block
	for _, b := range all {
		if strings.HasPrefix(b.Text, "apiVersion:") || strings.Contains(b.Text, "\napiVersion:") {
			objects = append(objects, b)
		}
	}
	return objects, errors.Join(failures...)
}

// hereDocuments are those of a block whose delimiter is EOF.
func hereDocuments(b Block) ([]Block, error) {
	var all []Block
	lines := strings.Split(b.Text, "\n")
	for i := 0; i < len(lines); i++ {
		if !strings.Contains(lines[i], "<<'EOF'") {
			continue
		}
		began := i + 1
		for i = began; i < len(lines) && lines[i] != "EOF"; i++ {
		}
		if i == len(lines) {
			return all, fmt.Errorf("%s: a here-document has no end", &b)
		}
		all = append(all, Block{Page: b.Page, Line: b.Line + began + 1, Language: "yaml", Text: strings.Join(lines[began:i], "\n") + "\n"})
	}
	return all, nil
}
