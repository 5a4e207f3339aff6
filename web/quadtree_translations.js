/** Translations of the panel's texts, by the English ones. Registers nothing. */
const ZH = {
  steps: "步骤",
  "planning ...": "正在规划……",
  "step {step} of {steps}, {percent}%, windows: {count}": "第 {step}/{steps} 步，{percent}%，窗口：{count}",
  "Play the steps": "播放步骤",
  "Play the steps of the run": "播放运行的步骤",
  "Step of the run": "运行的步骤",
  "Look at a step of the run; 0: the whole tree": "查看运行的某一步；0：整棵树",
  "Connect Load Image, or queue the workflow once.": "请连接“加载图像”，或先运行一次工作流。",
  "This image is computed during the run. Queue the workflow once.":
    "该图像在运行时才会生成。请先运行一次工作流。",
  "{node} is computed during the run. Queue the workflow once.":
    "{node} 在运行时才会计算。请先运行一次工作流。",
  "Reading the image ...": "正在读取图像……",
  "The preview is not available: {reason}": "无法预览：{reason}",
  "of the last run": "来自上次运行",
  "as the node before shows it": "前一节点显示的图像",
  "of an earlier run, something before this node has changed": "来自较早的运行，之前的节点已有改动",
  "the preview ignores the mask": "预览未计入遮罩",
  "painted on an image of another shape: regions ignored": "绘制时的图像比例不同：已忽略绘制区域",
  "{count} tiles": "{count} 个图块",
  "only the largest {count} are shown": "仅显示最大的 {count} 个",
  "about {percent}% of the full model cost at {steps} steps": "{steps} 步时约为完整模型开销的 {percent}%",
  "about {time}": "约 {time}",
  "assuming {what}": "假定为{what}",
  "a typical run": "典型的运行",
  "a typical model": "典型的模型",
  "a latent of the size of this image": "潜空间图像与此图像同尺寸",
  "20 steps": "20 步",
  "no noise mask": "没有噪声遮罩",
  "but the run would end with an error: {problem}": "但运行会以错误结束：{problem}",
  "as computed": "按计算",
  keep: "保持",
  full: "全部",
  Undo: "撤销",
  Clear: "清除",
  "Undo the last painted change. Keys: Ctrl+Z": "撤销上一次绘制。按键：Ctrl+Z",
  "Remove all painted regions": "清除所有绘制区域",
  "Quadtree preview": "四叉树预览",
  Keep: "保持",
  Value: "数值",
  Full: "全部",
  Erase: "擦除",
  Fill: "填充",
  "Paint tiles": "绘制图块",
  "Opacity of the tiles": "图块的不透明度",
  "Brush size": "笔刷大小",
  "Denoise to paint": "要绘制的降噪",
  "step {step}/{steps}, {done} of {windows} windows, {percent}% of full cost so far":
    "第 {step}/{steps} 步，窗口 {done}/{windows}，目前为完整开销的 {percent}%",
  "step {step}/{steps}, {done} of {windows} windows, {percent}% of full cost so far, about {time} left":
    "第 {step}/{steps} 步，窗口 {done}/{windows}，目前为完整开销的 {percent}%，约剩 {time}",
  "{steps} steps, {percent}% of the full model cost, {kept}% of the latent kept":
    "{steps} 步，完整模型开销的 {percent}%，潜空间图像有 {kept}% 保持不变",
  "{side} px, detail {detail}, {words}": "{side} px，细节 {detail}，{words}",
  "denoise {denoise} ({kind})": "降噪 {denoise}（{kind}）",
  painted: "已绘制",
  tile: "图块",
  size: "大小",
  opacity: "不透明度",
  "kept to regenerated": "从保持到重绘",
  "Paint what stays as it is (denoise 0). Key: {key}. Shift: a rectangle. Esc: no tool.":
    "绘制保持不变的区域（降噪 0）。按键：{key}。Shift：矩形。Esc：放下工具。",
  "Paint with the denoise beside it. Key: {key}. Shift: a rectangle. Esc: no tool.":
    "用旁边的降噪值绘制。按键：{key}。Shift：矩形。Esc：放下工具。",
  "Paint what is fully regenerated (denoise 1). Key: {key}. Shift: a rectangle. Esc: no tool.":
    "绘制完全重绘的区域（降噪 1）。按键：{key}。Shift：矩形。Esc：放下工具。",
  "Leave to the tree again; right click does it, too. Key: {key}. Shift: a rectangle. Esc: no tool.":
    "交还给四叉树；也可用右键。按键：{key}。Shift：矩形。Esc：放下工具。",
  "Denoise of the tool Value. Keys: 0-9": "“数值”工具的降噪。按键：0-9",
  "Size of the brush. Keys: [ and ]": "笔刷的大小。按键：[ 和 ]",
  "A click paints all connected tiles of the same denoise. Key: G": "单击即绘制所有相连且降噪相同的图块。按键：G",
  "Tiles of the image. Use the arrow keys to choose a tile, K, V, F or E to take a tool, and Enter to paint the tile with it.":
    "图像的图块。用方向键选择图块，K、V、F 或 E 选择工具，Enter 绘制该图块。",
};
const JA = {
  steps: "ステップ",
  "planning ...": "計画中…",
  "step {step} of {steps}, {percent}%, windows: {count}": "ステップ {step}/{steps}、{percent}%、ウィンドウ：{count}",
  "Play the steps": "ステップを再生",
  "Play the steps of the run": "実行のステップを再生します",
  "Step of the run": "実行のステップ",
  "Look at a step of the run; 0: the whole tree": "実行の 1 ステップを見ます。0：ツリー全体",
  "Connect Load Image, or queue the workflow once.":
    "「画像を読み込む」を接続するか、ワークフローを一度実行してください。",
  "This image is computed during the run. Queue the workflow once.":
    "この画像は実行時に計算されます。ワークフローを一度実行してください。",
  "{node} is computed during the run. Queue the workflow once.":
    "{node} は実行時に計算されます。ワークフローを一度実行してください。",
  "Reading the image ...": "画像を読み込んでいます……",
  "The preview is not available: {reason}": "プレビューを表示できません：{reason}",
  "of the last run": "前回の実行のもの",
  "as the node before shows it": "前のノードが表示している画像",
  "of an earlier run, something before this node has changed":
    "以前の実行のもの（このノードより前が変更されています）",
  "the preview ignores the mask": "プレビューはマスクを考慮していません",
  "painted on an image of another shape: regions ignored":
    "別の縦横比の画像に塗られているため、塗った領域を無視しました",
  "{count} tiles": "タイル {count} 個",
  "only the largest {count} are shown": "大きい順に {count} 個のみ表示",
  "about {percent}% of the full model cost at {steps} steps":
    "{steps} ステップでモデルの全コストの約 {percent}%",
  "about {time}": "約 {time}",
  "assuming {what}": "{what}と仮定",
  "a typical run": "標準的な実行",
  "a typical model": "標準的なモデル",
  "a latent of the size of this image": "潜在画像はこの画像と同じ大きさ",
  "20 steps": "20 ステップ",
  "no noise mask": "ノイズマスクなし",
  "but the run would end with an error: {problem}": "ただし実行はエラーで終わります：{problem}",
  "as computed": "計算どおり",
  keep: "維持",
  full: "全体",
  Undo: "元に戻す",
  Clear: "消去",
  "Undo the last painted change. Keys: Ctrl+Z": "最後の塗りを元に戻します。キー：Ctrl+Z",
  "Remove all painted regions": "塗った領域をすべて消します",
  "Quadtree preview": "四分木のプレビュー",
  Keep: "維持",
  Value: "値",
  Full: "全体",
  Erase: "消しゴム",
  Fill: "塗りつぶし",
  "Paint tiles": "タイルを塗る",
  "Opacity of the tiles": "タイルの不透明度",
  "Brush size": "ブラシの大きさ",
  "Denoise to paint": "塗るデノイズ",
  "step {step}/{steps}, {done} of {windows} windows, {percent}% of full cost so far":
    "ステップ {step}/{steps}、ウィンドウ {done}/{windows}、ここまで全コストの {percent}%",
  "step {step}/{steps}, {done} of {windows} windows, {percent}% of full cost so far, about {time} left":
    "ステップ {step}/{steps}、ウィンドウ {done}/{windows}、ここまで全コストの {percent}%、残り約 {time}",
  "{steps} steps, {percent}% of the full model cost, {kept}% of the latent kept":
    "{steps} ステップ、モデルの全コストの {percent}%、潜在画像の {kept}% を維持",
  "{side} px, detail {detail}, {words}": "{side} px、細部 {detail}、{words}",
  "denoise {denoise} ({kind})": "デノイズ {denoise}（{kind}）",
  painted: "塗り",
  tile: "タイル",
  size: "大きさ",
  opacity: "不透明度",
  "kept to regenerated": "維持から再生成まで",
  "Paint what stays as it is (denoise 0). Key: {key}. Shift: a rectangle. Esc: no tool.":
    "そのまま残す部分を塗ります（デノイズ 0）。キー：{key}。Shift：長方形。Esc：ツールを戻す。",
  "Paint with the denoise beside it. Key: {key}. Shift: a rectangle. Esc: no tool.":
    "横のデノイズで塗ります。キー：{key}。Shift：長方形。Esc：ツールを戻す。",
  "Paint what is fully regenerated (denoise 1). Key: {key}. Shift: a rectangle. Esc: no tool.":
    "完全に作り直す部分を塗ります（デノイズ 1）。キー：{key}。Shift：長方形。Esc：ツールを戻す。",
  "Leave to the tree again; right click does it, too. Key: {key}. Shift: a rectangle. Esc: no tool.":
    "木に戻します。右クリックでもできます。キー：{key}。Shift：長方形。Esc：ツールを戻す。",
  "Denoise of the tool Value. Keys: 0-9": "ツール「値」のデノイズ。キー：0-9",
  "Size of the brush. Keys: [ and ]": "ブラシの大きさ。キー：[ と ]",
  "A click paints all connected tiles of the same denoise. Key: G":
    "クリックすると、つながった同じデノイズのタイルをすべて塗ります。キー：G",
  "Tiles of the image. Use the arrow keys to choose a tile, K, V, F or E to take a tool, and Enter to paint the tile with it.":
    "画像のタイルです。矢印キーでタイルを選び、K、V、F、E でツールを選び、Enter で塗ります。",
};
export const TABLES = { zh: ZH, ja: JA };
