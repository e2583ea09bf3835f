// Parses each file named with the AsyncAPI initiative's own parser; prints what it complains of as JSON, by file.
const { readFileSync } = require('node:fs');
const { Parser } = require('@asyncapi/parser');

async function main(files) {
  const found = {};
  for (const file of files) {
    const { document, diagnostics } = await new Parser().parse(readFileSync(file, 'utf8'));
    found[file] = {
      parsed: document !== undefined,
      channels: document === undefined ? [] : document.channels().all().map((channel) => channel.id()),
      // 0 is an error, 1 a warning, 2 information.
      complaints: diagnostics
        .filter((one) => one.severity < 2)
        .map((one) => `${one.severity} ${one.code} ${one.path.join('/')}: ${one.message}`),
    };
  }
  process.stdout.write(JSON.stringify(found));
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
