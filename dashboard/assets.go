package dashboard

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"html/template"
	"io/fs"
	"net/http"
)

//go:embed assets
var assetFiles embed.FS

// assetsVersion is in the addresses of assets: a browser may keep them for ever.
var assetsVersion = func() string {
	sum := sha256.New()
	err := fs.WalkDir(assetFiles, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := assetFiles.ReadFile(path)
		sum.Write(content)
		return err
	})
	if err != nil {
		panic(err) // they are in the program
	}
	return hex.EncodeToString(sum.Sum(nil)[:6])
}()

func assets() http.Handler {
	files := http.FileServerFS(assetFiles)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("v") == assetsVersion {
			w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		}
		files.ServeHTTP(w, r)
	})
}

// Asset is the address of one.
func (r *rendered) Asset(name string) template.URL {
	return template.URL("/assets/" + name + "?v=" + assetsVersion) //nolint:gosec // names are the templates' own
}

// Body is the view itself.
func (r *rendered) Body() (template.HTML, error) {
	return r.part(r.Template)
}
